"""The command ``fastretina experiments``: many runs, trained and compared."""
