"""The filters of the role: what comes out is TOML that says what went in, whatever went in.

    python3 -m unittest discover --start-directory deploy/ansible/tests
"""

import datetime
import importlib.util
import pathlib
import random
import tomllib
import unittest

PATH = pathlib.Path(__file__).parent.parent / "roles/picoseg/filter_plugins/picoseg.py"
SPEC = importlib.util.spec_from_file_location("picoseg_filters", PATH)
FILTERS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FILTERS)

HOSTILE = [
    "",
    '"',
    '"""',
    "'",
    "\\",
    '\\"',
    "x\"\nstate = \"commissioned\"\n",
    "x\r\n[[egress]]\r\n",
    "]\n[lifetime]",
    "# no comment",
    "{{ lookup('pipe', 'id') }} {% raw %}",
    "\x00\x01\x1f\x7f\x85\u2028\u2029\ufeff",
    "\t\b\f",
    "Müller & Söhne, 株式会社 🔒",
    "$(id) `id` ${IFS}",
    "2026-01-01T00:00:00Z",
    "true",
    "1",
    "\\u0041",
]


def service(**more):
    return {"name": "pay", "provider": "P", **more}


class Files(unittest.TestCase):
    def read(self, text):
        self.assertTrue(text.startswith("# Managed by Ansible"))
        return tomllib.loads(text)

    def test_a_string_comes_back_as_it_was_wherever_it_stands(self):
        for hostile in HOSTILE:
            item = service(
                provider=hostile,
                compliance=[hostile, hostile],
                egress=[{"subject": {"exe": hostile}, "to": [hostile]}],
                teardown={"watch": hostile},
            )
            expected = {key: value for key, value in item.items() if key != "name"}
            self.assertEqual(self.read(FILTERS.picoseg_service(item)), expected)

    def test_random_strings_come_back_as_they_were(self):
        chance = random.Random(4747)
        pool = "\"'\\\n\r\t[]{}=#,.\x00\x1b\x7f\x9b aä🔒\u2028"
        for _ in range(2000):
            text = "".join(chance.choice(pool) for _ in range(chance.randrange(12)))
            settings = {text: text, "roles": {text: [text]}, "list": [{text: text}]}
            self.assertEqual(self.read(FILTERS.picoseg_settings(settings)), settings)

    def test_a_key_cannot_become_another_table(self):
        for hostile in HOSTILE:
            self.assertEqual(self.read(FILTERS.picoseg_settings({hostile: {hostile: 1}})), {hostile: {hostile: 1}})

    def test_half_of_a_surrogate_pair_is_refused(self):
        with self.assertRaisesRegex(ValueError, "U\\+DC80"):
            FILTERS.picoseg_service(service(provider="a\udc80"))

    def test_times_are_times_and_nothing_else_is(self):
        instant = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
        for text in ["2026-01-01T00:00:00Z", "2026-01-01t00:00:00.000+00:00", "2026-01-01 01:00:00+01:00"]:
            read = self.read(FILTERS.picoseg_service(service(lifetime={"commission": text})))
            self.assertEqual(read["lifetime"]["commission"], instant)
        for value in [instant, datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1)]:
            read = self.read(FILTERS.picoseg_service(service(lifetime={"commission": value})))
            self.assertEqual(read["lifetime"]["commission"], value)
        for text in ["2026-01-01T00:00:00Z\n", "2026-01-01T00:00:00Z # x", "２026-01-01T00:00:00Z", "tomorrow"]:
            read = self.read(FILTERS.picoseg_service(service(lifetime={"commission": text})))
            self.assertEqual(read["lifetime"]["commission"], text)

    def test_plain_values_stand_before_tables(self):
        item = service(lifetime={"commission": "x"}, window=[{"cron": "x"}, {"open": "y"}], owner="last")
        read = self.read(FILTERS.picoseg_service(item))
        self.assertEqual(read["owner"], "last")
        self.assertEqual(read["window"], [{"cron": "x"}, {"open": "y"}])

    def test_an_empty_list_is_written_and_what_is_not_given_is_not(self):
        read = self.read(FILTERS.picoseg_service(service(window=[], owner=None, egress=[{"to": [], "tls": None}])))
        self.assertEqual(read, {"provider": "P", "window": [], "egress": [{"to": []}]})

    def test_templates_that_give_strings_mean_what_they_say(self):
        read = self.read(FILTERS.picoseg_settings({"enforcement": {"priority": "-10", "protect": "False"}}))
        self.assertEqual(read["enforcement"], {"priority": -10, "protect": False})
        read = self.read(FILTERS.picoseg_segment({"name": "x", "loopback": True, "dns": "perhaps"}))
        self.assertEqual(read, {"loopback": True, "dns": "perhaps"})

    def test_a_subject_stands_on_one_line(self):
        segment = {"name": "x", "subject": {"unit": "x.service"}, "mode": "observe"}
        text = FILTERS.HEADER + 'subject = { unit = "x.service" }\nmode = "observe"\n'
        self.assertEqual(FILTERS.picoseg_segment(segment), text)

    def test_a_state_is_written_where_the_file_has_one(self):
        for state in ["present", "commissioned"]:
            self.assertNotIn("state", self.read(FILTERS.picoseg_service(service(state=state))))
        for state in ["suspended", "decommissioned"]:
            self.assertEqual(self.read(FILTERS.picoseg_service(service(state=state)))["state"], state)

    def test_the_same_values_give_the_same_bytes(self):
        item = service(egress=[{"subject": {"unit": "x"}, "to": ["a", "b"]}])
        self.assertEqual(FILTERS.picoseg_service(item), FILTERS.picoseg_service(dict(item)))

    def test_an_entry_of_a_list_is_one_line(self):
        item = {"name": "x", "entries": ["192.0.2.1", "# of the\toffice", "2001:db8::/32"]}
        self.assertEqual(FILTERS.picoseg_list(item), FILTERS.HEADER + "192.0.2.1\n# of the\toffice\n2001:db8::/32\n")
        for hostile in ["192.0.2.1\n0.0.0.0/0", "192.0.2.1\r", "a\x0bb", "a\x00"]:
            with self.assertRaisesRegex(ValueError, 'list "x"'):
                FILTERS.picoseg_list({"name": "x", "entries": [hostile]})


class Surplus(unittest.TestCase):
    paths = ["/etc/s/%s.toml" % name for name in ("kept", "gone", "other")]
    items = [{"name": "kept"}, {"name": "gone", "state": "absent"}, {"name": "new"}]

    def surplus(self, items, purge, paths=(), directory="/etc/s"):
        return FILTERS.picoseg_surplus([*self.paths, *paths], directory, ".toml", items, purge)

    def test_what_nobody_lists_goes_only_with_purge(self):
        self.assertEqual(self.surplus(self.items, False), ["/etc/s/gone.toml"])
        self.assertEqual(self.surplus(self.items, True), ["/etc/s/gone.toml", "/etc/s/other.toml"])

    def test_what_lies_elsewhere_or_is_something_else_stays(self):
        others = ["/etc/l/gone.toml", "/etc/s/gone.txt", "/etc/s/gone.toml.sample", "/etc/s/x/gone.toml"]
        self.assertEqual(self.surplus(self.items, False, others, "/etc/s/"), ["/etc/s/gone.toml"])

    def test_what_is_absent_is_not_written(self):
        self.assertEqual([item["name"] for item in FILTERS.picoseg_present(self.items)], ["kept", "new"])

    def test_no_items_at_all_are_none(self):
        self.assertEqual(FILTERS.picoseg_present(None), [])
        self.assertEqual(self.surplus([], True), sorted(self.paths))


if __name__ == "__main__":
    unittest.main()
