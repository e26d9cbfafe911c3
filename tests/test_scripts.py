"""The scripts: set-up that may be interrupted, counts that miss nothing, checks that can fail."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, load_script

SHELL = [
    ROOT / ".ci" / "run",
    *sorted((ROOT / "scripts").glob("*.sh")),
    *sorted((ROOT / ".githooks").iterdir()),
]

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def run(*args: object, **env: object) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository with some variables changed."""
    changed = {**os.environ, **{k: str(v) for k, v in env.items()}}
    return subprocess.run(
        [str(a) for a in args],
        cwd=ROOT,
        env=changed,
        text=True,
        capture_output=True,
        timeout=1800,  # for what hangs; not a limit that a busy machine could reach
        check=False,
    )


# Shell scripts in general


@pytest.mark.parametrize("path", SHELL, ids=lambda p: p.name)
def test_shell_scripts_parse_and_stop_at_errors(path: Path) -> None:
    done = run("bash", "-n", path)
    assert done.returncode == 0, done.stderr
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()


def test_ci_closes_with_the_totals() -> None:
    assert 'echo "$passed passed, $failed failed"' in (ROOT / ".ci" / "run").read_text()
    assert "bash scripts/test.sh" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_pin_their_actions(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w.-]+/[\w./-]+@v\d+", u) for u in used), used


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_name_no_host_and_run_scripts_that_exist(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text.replace("https://github.com", "")
    for name in re.findall(r"(?:scripts|\.ci)/[\w./]+", text):
        assert (ROOT / name).exists(), name


# scripts/setup.sh, with a Python whose `venv` and `pip` only write down what they were asked

FAKE_VENV_PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m pip --version") exit 0 ;;
    "-m pip install"*)
        all="$*"
        all="${all##*--disable-pip-version-check }"
        echo "pip ${all#--quiet }" >> "$FAKE_LOG"
        case "${FAKE_FAIL:-}" in
            kill) [[ "$*" == *" -e "* ]] && kill -9 "$PPID" ;;
            fail) [[ "$*" == *" -e "* ]] && { echo "no such package" >&2; exit 1; } ;;
        esac
        exit 0 ;;
esac
exit 99
"""
FAKE_PYTHON = f"""#!/usr/bin/env bash
if [ "$1 $2" = "-m venv" ]; then
    echo "venv ${{*:3:$#-3}}" >> "$FAKE_LOG"
    dir="${{@: -1}}"
    [ "$3" = --clear ] && rm -rf "$dir"
    mkdir -p "$dir/bin"
    touch "$dir/pyvenv.cfg"
    cp "$(dirname "$0")/venv-python" "$dir/bin/python"
    exit 0
fi
exec {sys.executable} "$@"
"""

PIP = "pip -c constraints.txt"
TORCH = f"{PIP} torch torchvision"
DEV = f"{PIP} -e .[dev]"


class Setup:
    """scripts/setup.sh with a fake Python, and the log of what it asked for."""

    def __init__(self, folder: Path) -> None:
        self.venv, self.log = folder / "venv", folder / "log"
        self.python = folder / "bin" / "python3"
        self.python.parent.mkdir()
        for path, text in (
            (self.python, FAKE_PYTHON),
            (self.python.with_name("venv-python"), FAKE_VENV_PYTHON),
        ):
            path.write_text(text)
            path.chmod(0o755)

    def __call__(self, *args: str, **env: object) -> subprocess.CompletedProcess[str]:
        given = {"VT_VENV": self.venv, "VT_PYTHON": self.python, "FAKE_LOG": self.log, **env}
        return run("bash", "scripts/setup.sh", *args, **given)

    def asked(self) -> list[str]:
        """What was asked for since the last call."""
        lines = (
            [line.strip() for line in self.log.read_text().splitlines()]
            if self.log.exists()
            else []
        )
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_setup_installs_once(setup: Setup) -> None:
    done = setup()
    assert done.returncode == 0, done.stderr
    assert setup.asked() == ["venv", TORCH, DEV]
    again = setup()
    assert again.returncode == 0 and "up to date" in again.stdout
    assert setup.asked() == []


def test_setup_runtime_is_less_than_dev(setup: Setup) -> None:
    assert setup("--runtime").returncode == 0
    assert setup.asked() == ["venv", TORCH, f"{PIP} -e .[train]"]
    assert "up to date" in setup("--runtime").stdout
    assert setup().returncode == 0
    assert setup.asked() == [TORCH, DEV]
    assert "up to date" in setup("--runtime").stdout


def test_setup_light_needs_no_torch(setup: Setup) -> None:
    assert setup("--light", VT_EXTRAS="test").returncode == 0
    assert setup.asked() == ["venv", f"{PIP} -e .[test]"]
    assert "up to date" in setup("--light", VT_EXTRAS="test").stdout
    assert setup("--light").returncode == 0  # other extras: another installation
    assert setup.asked() == [f"{PIP} -e ."]
    assert setup("--runtime").returncode == 0
    assert setup.asked() == [TORCH, f"{PIP} -e .[train]"]
    assert "up to date" in setup("--light").stdout


def test_setup_keeps_to_the_tested_versions_unless_told(setup: Setup, tmp_path: Path) -> None:
    assert setup(VT_CONSTRAINTS="").returncode == 0
    assert setup.asked() == ["venv", "pip torch torchvision", "pip -e .[dev]"]
    assert setup().returncode == 0  # not what was installed
    assert setup.asked() == [TORCH, DEV]
    nowhere = setup(VT_CONSTRAINTS=tmp_path / "nowhere.txt")
    assert nowhere.returncode == 1 and "no such file" in nowhere.stderr


def test_setup_with_uv(setup: Setup, tmp_path: Path) -> None:
    uv = tmp_path / "tools" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\necho "uv $*" >> "$FAKE_LOG"\n')
    uv.chmod(0o755)
    path = f"{uv.parent}:{os.environ['PATH']}"
    assert setup("--light", VT_UV=1, PATH=path).returncode == 0
    install = f"uv pip install --python {setup.venv}/bin/python --quiet -c constraints.txt -e ."
    assert setup.asked() == ["venv", install]


def test_setup_killed_in_the_middle_begins_afresh(setup: Setup) -> None:
    assert setup(FAKE_FAIL="kill").returncode == -signal.SIGKILL
    setup.asked()
    done = setup()
    assert done.returncode == 0 and "interrupted" in done.stdout
    assert setup.asked() == ["venv --clear", TORCH, DEV]
    assert "up to date" in setup().stdout


def test_setup_goes_on_after_a_failed_installation(setup: Setup) -> None:
    done = setup(FAKE_FAIL="fail")
    assert done.returncode == 1
    assert "no such package" in done.stderr and "Run this command again" in done.stderr
    setup.asked()
    assert setup().returncode == 0
    assert setup.asked() == [TORCH, DEV]


def test_setup_says_when_the_disk_is_too_small(setup: Setup, tmp_path: Path) -> None:
    df = tmp_path / "tools" / "df"
    df.parent.mkdir()
    df.write_text('#!/bin/sh\nprintf "Filesystem 1M-blocks Used Available\\ndisk 9 9 $FREE\\n"\n')
    df.chmod(0o755)
    path = f"{df.parent}:{os.environ['PATH']}"
    small = setup(PATH=path, FREE=3000)
    assert small.returncode == 0 and "only 3000 MB are free" in small.stdout
    assert "VT_VENV" in small.stdout
    full = setup(PATH=path, FREE=3, VT_EXTRAS="lab", FAKE_FAIL="fail")
    assert full.returncode == 1 and "the disk is full (3 MB left" in full.stderr
    enough = setup(PATH=path, FREE=90000)
    assert enough.returncode == 0 and "MB" not in enough.stdout


def test_setup_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 3.9.18\n")
    old.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("bash", "scripts/setup.sh", PATH=path, VT_VENV=tmp_path / "venv", VT_PYTHON="")
    assert done.returncode == 1
    assert (
        "3.9.18" in done.stderr
        and "Python 3.11 or newer" in done.stderr
        and "VT_PYTHON" in done.stderr
    )
    assert not (tmp_path / "venv").exists()


def test_setup_says_what_is_missing_or_unknown(tmp_path: Path) -> None:
    missing = run(
        "bash", "scripts/setup.sh", VT_PYTHON=tmp_path / "python4", VT_VENV=tmp_path / "venv"
    )
    assert missing.returncode == 1 and "was not found" in missing.stderr
    unknown = run("bash", "scripts/setup.sh", "--fast", VT_VENV=tmp_path / "venv")
    assert unknown.returncode == 2 and "--fast" in unknown.stderr
    assert "VT_VENV" in run("bash", "scripts/setup.sh", "--help").stdout


def test_setup_leaves_a_folder_alone_that_is_no_environment(setup: Setup) -> None:
    setup.venv.mkdir()
    (setup.venv / "thesis.txt").write_text("three years")
    done = setup()
    assert done.returncode == 1 and "not a virtual environment" in done.stderr
    assert (setup.venv / "thesis.txt").read_text() == "three years"


def test_quickstart_sets_up_and_runs_the_demo(setup: Setup) -> None:
    assert setup("--runtime").returncode == 0
    demo = setup.venv / "bin" / "videothinker"
    demo.write_text('#!/bin/sh\necho "demo got: $*"\n')
    demo.chmod(0o755)
    done = run(
        "bash", "scripts/quickstart.sh", "--quick", VT_VENV=setup.venv, VT_PYTHON=setup.python
    )
    assert done.returncode == 0, done.stderr
    assert "demo got: demo --out runs/demo-quick --quick" in done.stdout
    whole = run("bash", "scripts/quickstart.sh", VT_VENV=setup.venv, VT_PYTHON=setup.python)
    assert "demo got: demo --out runs/demo\n" in whole.stdout


@pytest.mark.parametrize(
    ("flag", "code", "says"), [("--help", 0, "--quick"), ("--qiuck", 2, "unknown option --qiuck")]
)
def test_quickstart_reads_its_options_before_it_sets_up(
    setup: Setup, flag: str, code: int, says: str
) -> None:
    done = run("bash", "scripts/quickstart.sh", flag, VT_VENV=setup.venv, VT_PYTHON=setup.python)
    assert done.returncode == code and says in done.stdout + done.stderr
    assert not setup.venv.exists() and not setup.asked()


# scripts/chromium.sh


def test_chromium_is_found_by_its_variable(tmp_path: Path) -> None:
    fake = tmp_path / "my-chrome"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    assert run("bash", "scripts/chromium.sh", CHROMIUM=fake).stdout.strip() == str(fake)


def test_chromium_missing_says_how_to_get_it(tmp_path: Path) -> None:
    for tool in ("bash", "id"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = run(tmp_path / "bash", "scripts/chromium.sh", PATH=tmp_path, CHROMIUM="")
    assert done.returncode == 1 and done.stdout == ""
    assert "apt-get install chromium" in done.stderr


# scripts/count_tests.py

LOG = (
    "Starting /r/nbs/00_a.ipynb\n- Completed /r/nbs/00_a.ipynb\n"
    "- Completed /r/nbs/tutorials/b.ipynb\nSuccess.\n"
)
FAILED = LOG.replace(
    "Success.", "\nnbdev Tests Failed On The Following Notebooks:\n" + "=" * 50 + "\n\tb.ipynb"
)
XML = '<testsuites><testsuite tests="7" failures="{}" errors="{}" skipped="1"/></testsuites>'


def test_count_tells_passed_from_failed_from_missing() -> None:
    count = load_script("count_tests").notebook_results
    both = {"00_a.ipynb", "tutorials/b.ipynb"}
    assert count(LOG, both) == (both, set())
    assert count(FAILED, both) == ({"00_a.ipynb"}, {"tutorials/b.ipynb"})
    assert count(LOG, both | {"01_c.ipynb"}) == (both, {"01_c.ipynb"})
    assert count("", both) == (set(), both)


@pytest.mark.parametrize(
    ("log", "nb_rc", "xml", "py_rc", "last", "status"),
    [
        (LOG, "0", XML.format(0, 0), "0", "8 passed, 0 failed", 0),
        (LOG, "124", XML.format(0, 0), "0", "8 passed, 1 failed", 1),
        (FAILED, "1", XML.format(0, 0), "0", "7 passed, 1 failed", 1),
        (LOG, "0", XML.format(1, 1), "1", "6 passed, 2 failed", 1),
        (LOG, "0", XML.format(0, 0), "2", "8 passed, 1 failed", 1),
        (LOG, "0", None, "4", "2 passed, 1 failed", 1),
    ],
)
def test_count_ends_with_the_totals(
    log: str, nb_rc: str, xml: str | None, py_rc: str, last: str, status: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    count = load_script("count_tests")
    monkeypatch.setattr(
        count, "expected_notebooks", lambda skip: {"00_a.ipynb", "tutorials/b.ipynb"}
    )
    (tmp_path / "nb").write_text(log)
    if xml:
        (tmp_path / "xml").write_text(xml)
    assert count.main(str(tmp_path / "nb"), nb_rc, str(tmp_path / "xml"), py_rc) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


# Notebooks, package and README

WIDGET = "application/vnd.jupyter.widget-view+json"


def notebook(*cells: dict, **metadata: object) -> dict:
    """A notebook with these cells."""
    cells = tuple({**cell, "id": f"c-{i}"} for i, cell in enumerate(cells))
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def code(source: str, **data: str) -> dict:
    """A code cell with an output."""
    outputs = [{"output_type": "display_data", "data": data, "metadata": {}}] if data else []
    return {"cell_type": "code", "execution_count": 3, "metadata": {}, "source": [source],
            "outputs": outputs}  # fmt: skip


def text(source: str) -> dict:
    """A markdown cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": [source]}


def test_clean_removes_widget_state_and_keeps_the_html() -> None:
    clean = load_script("clean_nbs").cleaned
    nb = notebook(
        code("w", **{WIDGET: "id 17", "text/html": "<b>w</b>", "text/plain": "<W at 0x7f>"}),
        widgets={"x": 1},
    )
    once = clean(json.dumps(nb))
    data = json.loads(once)["cells"][0]["outputs"][0]["data"]
    assert data == {"text/html": "<b>w</b>", "text/plain": "<W>"}
    assert json.loads(once)["metadata"] == {}
    assert clean(once) == once


def test_clean_check_reports_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook(code("1"), widgets={"x": 1})))
    before = path.read_bytes()
    script = ROOT / "scripts" / "clean_nbs.py"
    done = run(sys.executable, script, "--check", path)
    assert done.returncode == 1 and "not clean" in done.stdout
    assert path.read_bytes() == before
    assert run(sys.executable, script, path).returncode == 0
    assert run(sys.executable, script, "--check", path).returncode == 0


def test_readme_hides_what_is_hidden_and_links_into_the_repository() -> None:
    make = load_script("readme").readme
    links = (
        "[a](7_viewer/02_a.ipynb#x) [b](../data/README.md) [c](https://e.org/d.ipynb) "
        "![e](images/e.png) [f](#g)"
    )
    nb = notebook(
        text("# T\n\n> sub"), code("#| hide\nsecret"), code("#| echo: true\nshown  "), text(links)
    )
    made = make(nb)
    heading, badges, subtitle = made.split("\n\n")[:3]
    assert (heading, subtitle) == ("# T", "> sub") and badges.startswith("[![tests](https://")
    assert "secret" not in made and "echo" not in made and "```python\nshown\n```" in made
    good = (
        "[a](nbs/7_viewer/02_a.ipynb#x) [b](data/README.md) [c](https://e.org/d.ipynb) "
        "![e](nbs/images/e.png) [f](#g)"
    )
    assert made.endswith(good + "\n")
    with pytest.raises(ValueError, match="subtitle"):
        make(notebook(text("no heading")))


def test_readme_is_the_notebook() -> None:
    nb = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    assert load_script("readme").readme(nb) == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_soon_says_where_to_go() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = re.findall("^## (.+)", text, re.M)
    assert headings[:3] == ["Two commands", "What you get", "From here"]
    assert text.index("## From here") < 5000


FEW_LINES = (  # scripts that print no table
    "build_docs chat_endpoint check_dist check_export check_install clean_nbs draw_browser "
    "draw_viewer language_model readme"
).split()


def test_every_script_that_prints_a_table_lets_its_reader_leave() -> None:
    """`scripts/ablate_toy.py table OUT | head`"""
    for path in sorted((ROOT / "scripts").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and path.stem not in FEW_LINES:
            assert "    with reader_may_leave():\n" in text, path.name


def test_a_script_whose_reader_has_gone_ends_in_silence(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "ablate_toy.py", "table", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # before the first line comes
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")


def test_readme_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "data/README.md"):
        page = ROOT / name
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{name} links to {link}"


def test_check_export_sees_every_kind_of_change() -> None:
    check = load_script("check_export")
    assert check.changed({"a": b"1", "b": b"1", "c": b"1"}, {"a": b"1", "b": b"2", "d": b"1"}) == [
        "b",
        "c",
        "d",
    ]
    seen = check.snapshot()
    assert {"nbs/index.ipynb", "videothinker/__init__.py", "README.md", "pyproject.toml"} <= set(
        seen
    )


def test_check_export_names_modules_that_no_notebook_exports(tmp_path: Path) -> None:
    leftovers = load_script("check_export").leftovers
    for name in ("__init__", "_modidx", "data/__init__", "data/kept", "data/extra", "data/gone"):
        path = tmp_path / "videothinker" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "nbs" / "2_data").mkdir(parents=True)
    nb = notebook(code("#| default_exp data.kept"), code("#| export data.extra\nx = 1"))
    (tmp_path / "nbs" / "2_data" / "01_kept.ipynb").write_text(json.dumps(nb))
    assert leftovers(tmp_path) == ["videothinker/data/gone.py"]
    assert leftovers(ROOT) == []


def test_dist_check_names_what_is_missing(tmp_path: Path) -> None:
    missing = load_script("check_dist").missing
    dist, root = tmp_path / "dist", tmp_path / "root"
    dist.mkdir()
    for name in (
        "videothinker/a.py",
        "videothinker/py.typed",
        "videothinker/presets/recipes/tiny/sft.yaml",
        "videothinker/viewer/static/viewer.js",
        "data/tiny-base/config.json",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    with zipfile.ZipFile(dist / "v.whl", "w") as wheel:
        for name in ("videothinker/a.py", "tests/t.py", "v.dist-info/METADATA"):
            wheel.writestr(name, "")
    with tarfile.open(dist / "v.tar.gz", "w:gz") as tar:
        for name in ("setup.py", "LICENSE", "README.md"):
            (tmp_path / name).write_text("")
            tar.add(tmp_path / name, f"v-0.1/{name}")
    assert missing(dist, root) == [
        "wheel: no videothinker/presets/recipes/tiny/sft.yaml",
        "wheel: no videothinker/presets/tiny-base/config.json",
        "wheel: no videothinker/py.typed",
        "wheel: no videothinker/viewer/static/viewer.js",
        "sdist: no data/tiny-base/config.json",
        "sdist: no settings.ini",
        "sdist: no videothinker/a.py",
        "sdist: no videothinker/presets/recipes/tiny/sft.yaml",
        "sdist: no videothinker/py.typed",
        "sdist: no videothinker/viewer/static/viewer.js",
        "wheel: unexpected tests",
    ]


# Git


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small git repository with the project's merge driver installed, and a home of its own."""
    home, repo = tmp_path / "home", tmp_path / "repo"
    home.mkdir()
    for name in ("scripts", ".githooks", "nbs", "videothinker"):
        (repo / name).mkdir(parents=True)
    for name in (
        ".gitattributes",
        ".gitconfig",
        "settings.ini",
        "scripts/install_hooks.sh",
        ".githooks/pre-commit",
    ):
        shutil.copy2(ROOT / name, repo / name)
    for name in [n for n in os.environ if n.startswith("GIT_") or n == "VT_VENV"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    git(repo, "init", "--quiet", "--initial-branch=main")
    git(repo, "config", "user.name", "A")
    git(repo, "config", "user.email", "a@example.org")
    subprocess.run(["bash", "scripts/install_hooks.sh"], cwd=repo, check=True, capture_output=True)
    return repo


def git(repo: Path, *args: str, check: bool = True) -> str:
    """Run git in `repo` and return what it printed."""
    done = subprocess.run(["git", *args], cwd=repo, text=True, capture_output=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def test_hooks_are_installed_for_this_clone_only(clone: Path) -> None:
    assert git(clone, "config", "core.hooksPath").strip() == ".githooks"
    assert "nbdev_merge" in git(clone, "config", "--includes", "merge.nbdev-merge.driver")
    assert list((clone.parent / "home").iterdir()) == []


def test_conflicting_notebooks_stay_notebooks(clone: Path) -> None:
    path = clone / "nbs" / "00_a.ipynb"

    def commit(source: str) -> None:
        path.write_text(json.dumps(notebook(code(source)), indent=1))
        git(clone, "add", "-A")
        git(clone, "commit", "--quiet", "--no-verify", "-m", source)

    commit("x = 1")
    git(clone, "checkout", "--quiet", "-b", "other")
    commit("x = 2")
    git(clone, "checkout", "--quiet", "main")
    commit("x = 3")
    git(clone, "merge", "other", check=False)
    sources = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"]]
    assert "x = 2" in sources and "x = 3" in sources
    assert any("<<<<<<<" in s for s in sources), "the conflict is marked between the cells"


def test_commit_without_the_environment_says_what_to_do(clone: Path) -> None:
    git(clone, "add", "-A")
    done = run("git", "-C", clone, "commit", "-m", "x")
    assert done.returncode != 0 and "bash scripts/setup.sh" in done.stderr


# scripts/bench_sft.py


def test_bench_sft_compares_the_same_loss_for_both_families() -> None:
    script = ROOT / "scripts" / "bench_sft.py"
    options = ("--rows", 3, "--batches", 2, "--repeats", 1, "--family", "qwen2.5-vl", "qwen3-vl")
    done = run(sys.executable, script, *options)
    assert done.returncode == 0, done.stderr
    for family in ("qwen2.5-vl", "qwen3-vl"):
        lines = done.stdout.partition(f"{family}, 2 batches of 3 rows\n")[2].splitlines()
        (padded, *_), (fewer, *_) = (line.split()[-3:] for line in lines[:2])
        assert int(fewer) < int(padded)
        loss, gradients = re.findall(r"\d\.\de[-+]\d\d", lines[2])
        assert 0 <= float(loss) < 1e-5 and 0 < float(gradients) < 1e-4
    assert run(sys.executable, script, "--rows", 0).returncode == 2


# scripts/bench_grpo.py


def test_bench_grpo_prints_and_writes_every_way(tmp_path: Path) -> None:
    script, rows = ROOT / "scripts" / "bench_grpo.py", tmp_path / "rows.json"
    done = run(
        sys.executable, script, "--sizes", "256,8,2", "--repeats", 1, "--threads", 1, "--json", rows
    )
    assert done.returncode == 0, done.stderr
    title, header, *lines = done.stdout.splitlines()
    assert title == "prompt 256, completions 2 × 8 tokens" and header.split()[:3] == [
        "way",
        "decode",
        "prepare",
    ]
    found = {row["way"]: row for row in json.loads(rows.read_text())}
    assert list(found) == ["trl", "repeated", "seen once", "ours", "in parts"] and len(lines) == 5
    assert all(row["seconds"]["update"] > 0 and row["whole_update"] > 0 for row in found.values())
    assert (
        "step" in found["ours"]
        and "step" not in found["in parts"]
        and "gradient" not in found["trl"]
    )
    assert all(
        row["gradient"] < 1e-4 and row["loss_difference"] < 1e-5
        for way, row in found.items()
        if way != "trl"
    )


def test_bench_grpo_predicts_more_for_longer_prompts_and_larger_groups() -> None:
    bench = load_script("bench_grpo")

    def ratio(part: str, *size: int) -> float:
        return bench.predicted(*size, "repeated")[part] / bench.predicted(*size, "ours")[part]

    for part in ("update", "step"):
        short, long, large = (
            ratio(part, *size) for size in ((512, 64, 4), (4096, 64, 4), (4096, 64, 8))
        )
        assert 1 < short < long < large
    assert (
        bench.flops(bench.shape("qwen2_5_vl"), 4096, 64, 8, False)
        / bench.flops(bench.shape("qwen2_5_vl"), 4096, 64, 8, True)
        < 8
    )  # never more than the group


def test_bench_grpo_makes_groups_that_begin_alike(tmp_path: Path) -> None:
    from videothinker.model.prefix_tree import PrefixTree

    bench = load_script("bench_grpo")
    group = bench.make(152, 90, 8, tmp_path, 36).completions
    assert abs(len(PrefixTree(group)) / (8 * 90) - 0.36) < 0.02
    apart, alike = (bench.predicted(152, 90, 8, "ours", percent) for percent in (100, 36))
    assert alike["update"] < 0.6 * apart["update"]
    in_parts = [bench.predicted(152, 90, 8, "in parts", percent) for percent in (100, 36)]
    assert in_parts[0] == in_parts[1]  # each completion is a part, and a tree of its own
    done = run(sys.executable, ROOT / "scripts" / "bench_grpo.py", "--sizes", "152,90,8,5")
    assert done.returncode == 2 and "histories are distinct" in done.stderr


def test_bench_grpo_counts_the_tower_as_torch_does(tmp_path: Path) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    bench = load_script("bench_grpo")
    given = bench.make(512, 4, 2, tmp_path)
    patches = bench.prepare(bench.read(given), "ours", 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        given.model.model.get_video_features(patches, given.prompt.grid)
    assert (
        0.9 < bench.vision_flops(bench.shape("qwen2_5_vl"), 512) / counter.get_total_flops() < 1.1
    )


def test_bench_grpo_refuses_a_size_it_cannot_build_and_a_file_it_cannot_write(
    tmp_path: Path,
) -> None:
    done = run(sys.executable, ROOT / "scripts" / "bench_grpo.py", "--sizes", "64,8")
    assert done.returncode == 2 and "--sizes takes P,C,G" in done.stderr
    done = run(
        sys.executable,
        ROOT / "scripts" / "bench_grpo.py",
        "--json",
        tmp_path / "nowhere" / "rows.json",
    )
    assert done.returncode == 2 and "there is no folder" in done.stderr


# scripts/check_vllm.py


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_check_vllm_says_what_is_missing() -> None:
    done = run(sys.executable, ROOT / "scripts" / "check_vllm.py")
    assert (
        done.returncode == 1
        and done.stderr.strip() == "vLLM cannot be imported: No module named 'vllm'"
    )


# scripts/try_kills.py


def test_try_kills_sees_what_a_kill_leaves(tmp_path: Path) -> None:
    damage, reply = load_script("try_kills").damage, {"id": "q1", "text": "so"}
    cases = {
        "whole.jsonl": (
            [reply, reply | {"forced_letter": "B"}],
            "",
        ),  # a reply, and the choice it was made to make
        "twice.jsonl": ([reply, reply], "holds an answer twice"),
    }
    for name, (rows, says) in cases.items():
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
        assert damage(tmp_path / name) == says
    (tmp_path / "torn.json").write_text("{")
    assert damage(tmp_path / "torn.json")
