"""What is stored, how it is read and written, and what each version of the schema changed."""
