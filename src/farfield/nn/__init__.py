"""Small networks and the one loop that trains them. The only shared part of the package that imports torch."""
