"""The documentation site: pages from the notebooks, without running them.

`markup` turns Markdown, code and formulas into HTML, `api` documents exported code, `chapters`
reads notebooks, `pages` puts them into pages, `links` checks those. scripts/build_docs.py runs it.
"""
