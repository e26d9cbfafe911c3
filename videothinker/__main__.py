"""`python -m videothinker`: the command line, for launchers that start a module."""

from videothinker.commands.main import main

if __name__ == "__main__":
    main()
