"""What is said wherever a grade is shown."""

NOTICE = "Not a medical device."
