"""The documentation site: pages from the notebooks, without running them.

`markup` turns Markdown, code and formulas into HTML, `api` documents exported code, `chapters`
reads notebooks, `commands` documents a parser, `pages` puts all of it into pages, `links` checks
those, `gaps` lists what they lack. scripts/build_docs.py runs it.
"""
