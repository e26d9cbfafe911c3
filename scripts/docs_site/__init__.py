"""The documentation site: pages from the notebooks, without running them.

`markup` turns Markdown, code and formulas into HTML, `api` documents exported code, `chapters`
reads notebooks, `book` puts them in order, `commands` documents a parser, `index` keeps what the
search and the page of names know, `frame` is what all pages share, `pages` writes them, `links`
checks those, `gaps` lists what they lack. scripts/build_docs.py runs it.
"""
