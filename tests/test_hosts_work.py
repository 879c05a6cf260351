"""What is sent to hosts, and which hosts there are: files by content, patterns asked for together."""

import hashlib
import os

import pytest

from ripresa.hosts.roster import Roster
from ripresa.hosts.transport import Host, PatternError
from ripresa.hosts.work import Shipper, Unshippable, Work, folders, key_of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def work(inputs, mentioned=()):
    return Work("true", list(inputs), list(mentioned), [])


def test_files_are_known_by_content_and_keep_their_mode(here):
    (here / "a.sh").write_text("echo a")
    (here / "a.sh").chmod(0o755)
    (file,) = Shipper().files(work(["a.sh"]))
    assert file == ("a.sh", hashlib.sha256(b"echo a").hexdigest(), 0o755, 6)


def test_directories_are_taken_apart_and_nothing_is_sent_twice(here):
    (here / "in" / "deep").mkdir(parents=True)
    for name in ("in/b", "in/deep/c", "in/.snakemake_timestamp"):
        (here / name).touch()
    assert [file.path for file in Shipper().files(work(["in", "in/b"], ["in/b"]))] == ["in/b", "in/deep/c"]


def test_a_changed_file_is_read_again(here):
    shipper = Shipper()
    (here / "a").write_text("1")
    before = shipper.files(work(["a"]))
    (here / "a").write_text("2")
    os.utime("a", ns=(1, 1))
    assert shipper.files(work(["a"])) != before


def test_an_absolute_path_within_the_directory_has_its_place(here):
    (here / "a").touch()
    assert [file.path for file in Shipper().files(work([str(here / "a")]))] == ["a"]


def test_an_input_from_elsewhere_has_none():
    with pytest.raises(Unshippable, match="/etc/hostname lies outside"):
        Shipper().files(work(["/etc/hostname"]))


def test_what_a_command_only_mentions_may_be_elsewhere():
    assert Shipper().files(work([], ["/etc/hostname", "../x"])) == []


def test_outputs_find_their_folders():
    assert folders(["a", "b/c", "b/d", "e/f/g"]) == ["b", "e/f"]


def test_keys_are_short_and_differ():
    assert len(key_of("a/b")) == 24 != key_of("a%2Fb")


class Inventory:
    """Three hosts in two groups, and how often was asked."""

    def __init__(self):
        self.asked = []

    def hosts(self, pattern):
        self.asked.append(pattern)
        groups = {"h1": {"web", "all"}, "h2": {"web", "all"}, "h3": {"db", "all"}}
        parts = pattern.split(",")
        for part in parts:
            if not any(part == name or part in member for name, member in groups.items()):
                raise PatternError(f"no host {part}")
        return {
            name: Host(name, frozenset(member), {}, None)
            for name, member in groups.items()
            if any(part == name or part in member for part in parts)
        }


def test_patterns_are_asked_for_together():
    inventory = Inventory()
    roster = Roster(inventory)
    roster.prepare(["h1", "db", "web", "h1"])
    assert list(roster.hosts("h1")) == ["h1"]
    assert list(roster.hosts("web")) == ["h1", "h2"]
    assert roster.host("h3").groups == {"db", "all"}
    roster.prepare(["h1"])
    assert inventory.asked == ["db,h1,web"]


def test_a_host_that_nobody_asked_for_is_not_among_those_known_by_chance():
    inventory = Inventory()
    roster = Roster(inventory)
    roster.prepare(["h1", "db"])
    assert list(roster.hosts("all")) == ["h1", "h2", "h3"]
    assert inventory.asked == ["db,h1", "all"]


def test_a_group_is_whole_although_some_of_its_hosts_were_known_before():
    inventory = Inventory()
    roster = Roster(inventory)
    roster.prepare(["h1", "web", "nowhere"])
    assert list(roster.hosts("h1")) == ["h1"]
    assert list(roster.hosts("web")) == ["h1", "h2"]
    roster = Roster(inventory)
    roster.hosts("h1")
    roster.prepare(["web"])
    assert list(roster.hosts("web")) == ["h1", "h2"]


def test_what_one_pattern_excludes_others_still_have():
    inventory = Inventory()
    roster = Roster(inventory)
    roster.prepare(["h1", "web", "all:!h2"])
    assert inventory.asked == ["h1,web"]


def test_a_group_is_no_host():
    with pytest.raises(PatternError, match="'web' is no host of the inventory but several"):
        Roster(Inventory()).host("web")


def test_a_wrong_pattern_does_not_hinder_the_others_and_is_asked_for_once():
    inventory = Inventory()
    roster = Roster(inventory)
    roster.prepare(["h1", "nowhere"])
    assert list(roster.hosts("h1")) == ["h1"]
    for _ in range(2):
        with pytest.raises(PatternError, match="nowhere"):
            roster.hosts("nowhere")
    assert inventory.asked == ["h1,nowhere", "h1", "nowhere"]
