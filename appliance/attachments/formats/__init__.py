"""What the reader can read. Only the reader's process imports these modules, and the libraries that they use."""
