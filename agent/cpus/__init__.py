"""The cpu manager: processors of their own for containers that ask for whole ones."""
