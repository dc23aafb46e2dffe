"""What helps where the system refuses to read or write, by the number of its error."""

from __future__ import annotations

import errno
import os

SPACE = "Free some space, or give another place."
MENDS = {  # by name, because a system may lack some of the numbers
    "ENOSPC": SPACE,
    "EDQUOT": f"The quota is used up. {SPACE}",
    "EFBIG": "Files may not be so large there. Give another place.",
    "EROFS": "Nothing can be written there. Give another place.",
    "EACCES": "Give another place, or change its permissions.",
    "EPERM": "Give another place, or change its permissions.",
    "ENAMETOOLONG": "Give a shorter name.",
    "ELOOP": "A link there leads back to itself. Give another path.",
    "ENOTDIR": "A part of the path is a file, not a folder. Give another path.",
    "EISDIR": "A folder is there. Give the name of a file.",
    "ENOTEMPTY": "A folder with files is there. Give another name.",
    "EEXIST": "Something is there already. Give another name.",
    "ENOENT": "Create the folder first, or give an existing one.",
    "EXDEV": "Give a place on the same file system.",
    "EINVAL": "The file system there does not take this name or operation. Give another place.",
    "ENXIO": "No ordinary file is there. Give the path of a file.",
    "ENODEV": "No ordinary file is there. Give the path of a file.",
    "ESPIPE": "No ordinary file is there. Give the path of a file.",
    "EBUSY": "Another program uses it. Wait for it, or give another place.",
    "ETXTBSY": "Another program uses it. Wait for it, or give another place.",
    "EIO": "The disk or its connection fails. Give another place.",
    "ESTALE": "The file server has lost it. Open its folder again, or give another place.",
    "ETIMEDOUT": "The file server does not answer. Try again, or give another place.",
    "EMFILE": "Too many files are open. Allow more (ulimit -n), or close some programs.",
    "ENFILE": "Too many files are open. Close some programs.",
    "ENOMEM": "Free some memory, or give a smaller file.",
    "EPIPE": "The program that reads the output has ended. Let it read all of it.",
}


def find_mend(error: OSError) -> str:
    """Return a sentence on what helps against an error of the system.

    Examples
    --------
    >>> from netgraph.io.files.system_refusals import find_mend
    >>> find_mend(OSError(36, "File name too long"))
    'Give a shorter name.'
    """
    return MENDS.get(errno.errorcode.get(error.errno or 0, ""), "Give another place.")


def describe_refusal(error: OSError) -> str:
    """Return the system's reason, such as "No space left on device". The path is left out, which messages name first."""
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error))
