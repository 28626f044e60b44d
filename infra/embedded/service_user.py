"""Whom the embedded servers run as when we are root.

PostgreSQL refuses to run as root. So root gives its servers to an account of their own, owner of their folders, and lets
that account (and no other) pass through the folders above, such as a home folder that nobody else may enter.
"""

import logging
import os
import pwd
import shutil
import stat
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.embedded.errors import DataFolderError

ACCOUNT = "stockhold"
FALLBACK_ACCOUNT = "nobody"

ACL_XATTR = "system.posix_acl_access"
ACL_VERSION = 2
ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
ACL_NO_ID = 0xFFFFFFFF
SEARCH = 0x1

# Says which folder on the way to a path stops an account, by being that account: no reading of modes and access lists could
# be as sure. It runs in an interpreter of its own, since a process cannot take a change of user back.
PROBE = """
import os, sys
uid, gid, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([]); os.setgid(gid); os.setuid(uid)
folder = '/'
for name in [part for part in path.split('/') if part] + ['.']:
    try:
        os.stat(os.path.join(folder, name))
    except PermissionError:
        print(folder, end='')
        break
    folder = os.path.join(folder, name)
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceUser:
    uid: int
    gid: int
    name: str


def service_user(owned: Path) -> ServiceUser | None:
    """The account for the servers whose files are (or will be) in `owned`; None: our own, since we are not root.

    An existing folder keeps its owner, so that a folder is never handed from one account to another.
    """
    if os.geteuid() != 0:
        return None
    if owned.exists() and (uid := owned.stat().st_uid) != 0:
        return _account_of(uid)
    return _dedicated_account()


def _account_of(uid: int) -> ServiceUser:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise DataFolderError(f"the data folder belongs to user id {uid}, which this machine does not know") from None
    return ServiceUser(entry.pw_uid, entry.pw_gid, entry.pw_name)


def _dedicated_account() -> ServiceUser:
    """The `stockhold` account, made at the first need; `nobody` where accounts cannot be made."""
    for attempt in range(2):
        for name in (ACCOUNT,) if attempt == 0 else (ACCOUNT, FALLBACK_ACCOUNT):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return ServiceUser(entry.pw_uid, entry.pw_gid, entry.pw_name)
        if attempt == 0:
            _make_account()
    raise DataFolderError(f"running as root needs an account {ACCOUNT!r} or {FALLBACK_ACCOUNT!r} to run PostgreSQL as")


def _make_account() -> None:
    """Ask the system for the account. A failure is not final: somebody else may be making the same one right now."""
    useradd = shutil.which("useradd")
    if useradd is None:
        return
    command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
    made = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (fixed words)
    if made.returncode != 0:
        log.info("useradd %s: %s", ACCOUNT, made.stderr.strip())


def let_reach(user: ServiceUser, path: Path) -> None:
    """Let `user` pass through every folder above `path`.

    Raises DataFolderError if a folder on the way cannot be opened to that account.
    """
    previous: Path | None = None
    while (folder := _blocking_folder(user, path)) is not None:
        if folder == previous:
            raise DataFolderError(f"user {user.name} cannot be let through {folder}: choose another --data folder")
        previous = folder
        _grant_search(folder, user)


def _blocking_folder(user: ServiceUser, path: Path) -> Path | None:
    command = [sys.executable, "-I", "-S", "-c", PROBE, str(user.uid), str(user.gid), str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603  (our own script)
    return Path(found) if found else None


def _grant_search(folder: Path, user: ServiceUser) -> None:
    """One entry of an access list, for one account, to pass but not to look; everybody, where lists are unknown."""
    try:
        _write_access_list(folder, user.uid)
    except (AttributeError, OSError):  # no such call on this system, or none on this file system
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        log.warning("everybody may now pass through %s, which the account %s must", folder, user.name)
    else:
        log.info("the account %s may now pass through %s", user.name, folder)


def _write_access_list(folder: Path, uid: int) -> None:
    entries = _read_access_list(folder)
    entries[ACL_USER, uid] = entries.get((ACL_USER, uid), 0) | SEARCH
    group_class = entries.get((ACL_MASK, ACL_NO_ID), entries[ACL_GROUP_OBJ, ACL_NO_ID])
    entries[ACL_MASK, ACL_NO_ID] = group_class | SEARCH
    packed = b"".join(struct.pack("<HHI", tag, rights, who) for (tag, who), rights in sorted(entries.items()))
    os.setxattr(folder, ACL_XATTR, struct.pack("<I", ACL_VERSION) + packed)


def _read_access_list(folder: Path) -> dict[tuple[int, int], int]:
    """Rights by (kind of entry, account); of a folder without a list, the list that its mode stands for."""
    if ACL_XATTR in os.listxattr(folder):
        raw = os.getxattr(folder, ACL_XATTR)
        return {(tag, who): rights for tag, rights, who in struct.iter_unpack("<HHI", raw[4:])}
    mode = folder.stat().st_mode
    return {
        (ACL_USER_OBJ, ACL_NO_ID): (mode >> 6) & 7,
        (ACL_GROUP_OBJ, ACL_NO_ID): (mode >> 3) & 7,
        (ACL_OTHER, ACL_NO_ID): mode & 7,
    }
