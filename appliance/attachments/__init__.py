"""Files that people attach: a process of its own reads them, and the web worker gets text."""
