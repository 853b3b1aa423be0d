"""The commands behind the door, by what they are about. Each imports what it needs when it runs."""
