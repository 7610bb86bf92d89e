"""People: accounts, their roles and passwords, and the one-time links that let people begin.

Every change is an event of the record, written in the same transaction as the change: one cannot happen without the
other. Signing in is in sign_in.py, sessions in sessions.py, API keys in api_keys.py. A change that needs
a second administrator is refused here with `SecondNeededError` (four_eyes.py) and asked for in approvals.py.

No account exists at first. `make_first_admin_link` gives a token; whoever redeems it chooses name and password and gets
the roles of the link, which the record names.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from appliance.audit.event import Actor, Via
from appliance.database.damaged_rows import Rows
from appliance.database.tables import users
from appliance.people import links
from appliance.people.account_changes import (
    apply_disable,
    apply_enable,
    apply_roles,
    give_link,
    insert_user,
    replace_password,
)
from appliance.people.account_store import AccountStore
from appliance.people.four_eyes import Change, check_alone
from appliance.people.links import LINK_LIFETIME_S, Link, LinkError
from appliance.people.passwords import check_password
from appliance.people.users import (
    ALL_ROLES,
    AccountError,
    Role,
    User,
    UserNotFoundError,
    active_admins,
    checked_name,
    checked_roles,
    find_user,
    has_damaged_user,
    join_roles,
    read_users,
)

__all__ = [
    "ALL_ROLES", "LINK_LIFETIME_S", "AccountError", "Accounts", "LinkError", "Role", "User", "UserNotFoundError",
]  # fmt: skip


class Accounts:
    """Users and links of one database; thread-safe."""

    def __init__(self, store: AccountStore) -> None:
        self._store = store

    def list_users(self) -> Rows[User]:
        """All accounts by name, and the damaged ones."""
        with self._store.database.read() as connection:
            return read_users(connection, sa.select(users).order_by(users.c.name))

    def get(self, user_id: str) -> User:
        """The user with this id.

        Raises:
            UserNotFoundError: there is none.
        """
        with self._store.database.read() as connection:
            return find_user(connection, users.c.id == user_id)

    def find(self, name: str) -> User:
        """The user with this name, in any case.

        Raises:
            UserNotFoundError: there is none.
        """
        with self._store.database.read() as connection:
            return find_user(connection, users.c.name == name.strip().lower())

    def create_user(
        self, name: str, password: str | None, roles: Iterable[Role], *, by: Actor, display_name: str = ""
    ) -> User:
        """Add an account; without a password nobody can sign in to it until one is set.

        Raises:
            NoLongerAdminError: the one who asks is no administrator any more.
            AccountError: the name is taken or not a name, or there is no role.
            SecondNeededError: another administrator must confirm it.
            PasswordRuleError: the password is not accepted.
        """
        name, wanted = checked_name(name), checked_roles(roles)
        encoded = None if password is None else self._hashed(password, name)
        with self._store.admin_change(by) as change:
            why = check_alone(
                change.connection, Change("create", None, name, frozenset(), wanted), by, now_us=change.now_us
            )
            return insert_user(change, name, display_name, encoded, wanted, why=why)

    def disable(self, user_id: str, *, by: Actor) -> None:
        """Lock an account out: its sessions, links and answers under way end, its API keys stop working.

        Raises:
            NoLongerAdminError: the one who asks is no administrator any more.
            AccountError: it is the last administrator's.
        """
        with self._store.admin_change(by) as change:
            apply_disable(change, find_user(change.connection, users.c.id == user_id))

    def enable(self, user_id: str, *, by: Actor) -> None:
        """Let a disabled account in again.

        Raises:
            NoLongerAdminError: the one who asks is no administrator any more.
            SecondNeededError: another administrator must confirm it.
        """
        with self._store.admin_change(by) as change:
            user = find_user(change.connection, users.c.id == user_id)
            wanted = Change("enable", user.id, user.name, user.roles, user.roles)
            apply_enable(change, user, why=check_alone(change.connection, wanted, by, now_us=change.now_us))

    def set_roles(self, user_id: str, roles: Iterable[Role], *, by: Actor, end_keys: bool = True) -> User:
        """Give an account exactly these roles; its sessions end, and with ``end_keys`` its API keys.

        Raises:
            NoLongerAdminError: the one who asks is no administrator any more.
            AccountError: no role, or the last administrator would cease to be one.
            SecondNeededError: another administrator must confirm it.
        """
        wanted = checked_roles(roles)
        with self._store.admin_change(by) as change:
            user = find_user(change.connection, users.c.id == user_id)
            if user.roles != wanted:
                asked = Change("roles", user.id, user.name, user.roles, wanted, end_keys)
                why = check_alone(change.connection, asked, by, now_us=change.now_us)
                apply_roles(change, user, wanted, end_keys=end_keys, why=why)
        return self.get(user_id)

    def set_password(self, user_id: str, password: str, *, by: Actor, end_keys: bool = True) -> None:
        """Replace a password; the account's sessions and links end, and with ``end_keys`` its API keys.

        Raises:
            PasswordRuleError: the password is not accepted.
        """
        encoded = self._hashed(password, self.get(user_id).name)
        with self._store.change(by) as change:
            user = find_user(change.connection, users.c.id == user_id)
            replace_password(change, user, encoded, end_keys=end_keys)

    def make_first_admin_link(self, *, roles: Iterable[Role] = ALL_ROLES, by: Actor | None = None) -> str | None:
        """A new token for the first account, which ends earlier ones; None if an administrator exists or may exist: a
        damaged row must not make somebody else the first."""
        wanted = checked_roles(roles) | {Role.ADMIN}
        with self._store.change(by or Actor("", "appliance", "system")) as change:
            if active_admins(change.connection) or has_damaged_user(change.connection):
                return None
            token = links.make_link(change.connection, None, wanted, made_by="", now_us=change.now_us)
            change.note("link_made", "", f"a new account with the roles {join_roles(wanted)}")
            return token

    def make_reset_link(self, user_id: str, *, by: Actor) -> str:
        """A token with which `user_id` sets a new password; earlier links of the account end.

        Raises:
            NoLongerAdminError: the one who asks is no administrator any more.
            AccountError: the account is disabled.
            SecondNeededError: another administrator must confirm it.
        """
        with self._store.admin_change(by) as change:
            user = find_user(change.connection, users.c.id == user_id)
            asked = Change("link", user.id, user.name, user.roles, user.roles)
            return give_link(change, user, why=check_alone(change.connection, asked, by, now_us=change.now_us))

    def has_link(self, user_id: str) -> bool:
        """Whether a one-time link of the account still works."""
        with self._store.database.read() as connection:
            return links.has_link(connection, user_id, now_us=self._store.clock_us())

    def link_user(self, token: str) -> User | None:
        """Whose password the link sets; None when it makes a new account.

        Raises:
            LinkError: the link is unknown or has ended.
        """
        with self._store.database.read() as connection:
            link = self._link(connection, token)
            return None if link.user_id is None else find_user(connection, users.c.id == link.user_id)

    def redeem(
        self, token: str, name: str, password: str, *, via: Via, address: str, display_name: str = "",
        end_keys: bool = True,
    ) -> User:  # fmt: skip
        """Use a link: make its account, or set the password of the account it is for (`name` is then ignored).

        Raises:
            LinkError: the link is unknown or has ended.
            AccountError, PasswordRuleError: the name or password is refused; the link stays valid.
        """
        target = self.link_user(token)
        name = target.name if target else checked_name(name)
        encoded = self._hashed(password, name)
        by = target.actor(via, address) if target else Actor("", name, via, address)
        with self._store.change(by) as change:
            link = self._link(change.connection, token)
            links.use_link(change.connection, link)
            if target is None:
                return insert_user(change, name, display_name, encoded, link.roles)
            user = find_user(change.connection, users.c.id == target.id)
            # A link that people make for themselves says nothing new of who they are.
            vouched_by = None if link.made_by == user.id else link.made_by
            replace_password(change, user, encoded, end_keys=end_keys, vouched_by=vouched_by)
        return user

    def _link(self, connection: sa.Connection, token: str) -> Link:
        link = links.find_link(connection, token, now_us=self._store.clock_us())
        if link.user_id is None and (active_admins(connection) or has_damaged_user(connection)):
            raise LinkError("admin_exists")
        return link

    def _hashed(self, password: str, name: str) -> str:
        check_password(password, name=name)
        return self._store.passwords.hash(password)
