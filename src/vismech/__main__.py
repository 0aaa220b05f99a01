"""``python -m vismech``: the command ``vismech``, where its script is not on the path."""

from vismech.commands.main import main

if __name__ == "__main__":
    main()
