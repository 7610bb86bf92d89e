"""How an archive reaches the installer: as one file, through a pipe, or as volumes on several media."""
