"""The browser enforces "needs no network": nothing is loaded, and only the page's own scripts run."""

import base64
import hashlib
import re

from conftest import ROOT

from lossbench.reporting.page import _with_policy

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">')


def test_each_script_of_the_page_is_allowed_by_its_hash_and_no_other():
    page = '<meta content="script-src SCRIPTS"><script>let a = "ä";</script><script type="application/json">{}</script>'
    allowed = re.findall(r"'sha256-([^']+)'", _with_policy(page))
    assert allowed == [base64.b64encode(hashlib.sha256('let a = "ä";'.encode()).digest()).decode()]


def test_every_page_has_a_policy_that_loads_nothing():
    templates = sorted((ROOT / "lossbench").rglob("*.html.j2"))
    assert {"page.html.j2", "retraining.html.j2"} <= {one.name for one in templates}
    for template in templates:
        source = template.read_text(encoding="utf-8")
        if "<html" not in source:  # a part of another page
            continue
        (policy,) = POLICY.findall(source)
        rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert set(rules) <= {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
        assert rules["img-src"] == "data:"
        assert "'unsafe-inline'" not in rules.get("script-src", "")
        assert not re.search(r"\son[a-z]+=", source)
