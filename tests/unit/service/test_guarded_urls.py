"""Strangers' URLs, read: what passes, how it is read, and by which rule the others are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantid_serve.service.guarded_urls import RefusedError, UrlRules, read_url

RULES = UrlRules()


def refusal(text: str, rules: UrlRules = RULES) -> str:
    with pytest.raises(RefusedError) as refused:
        read_url(text, rules)
    return refused.value.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file:///etc/passwd", "scheme"),
        ("gopher://example.com/", "scheme"),
        ("s3://other-bucket/x", "scheme"),
        ("ftp://example.com/", "scheme"),
        ("//example.com/x", "scheme"),
        ("example.com", "scheme"),
        ("", "scheme"),
        ("http:example.com", "host"),
        ("http:///x", "host"),
        ("http://user:pass@example.com/", "userinfo"),
        ("http://127.0.0.1%2f@example.com/", "userinfo"),
        ("http://@example.com/", "userinfo"),
        ("http://example.com\\@127.0.0.1/", "characters"),
        ("http:\\\\example.com/", "characters"),
        ("http://exam\tple.com/", "characters"),
        ("http://example.com/\r\nHost: evil", "characters"),
        (" http://example.com/", "characters"),
        ("http://example.com/\x00", "characters"),
        ("http://example.com/\u202egpj.x", "characters"),
        ("http://example.com/\ud800", "characters"),
        ("http://\uff45xample.com/", "host"),
        ("http://127.0.0.\u2460/", "host"),
        ("http://exam%70le.com/", "host"),
        ("http://ex\u00e4mple.com/", "host"),
        ("http://example..com/", "host"),
        ("http://example.com./", "host"),
        ("http://-a.com/", "host"),
        (f"http://{'a' * 64}.com/", "host"),
        (f"http://{'a.' * 127}com/", "host"),
        ("http://[::1/", "host"),
        ("http://[fe80::1%25eth0]/", "host"),
        ("http://[v1.x]/", "host"),
        ("http://127.1/", "host"),
        ("http://2130706433/", "host"),
        ("http://0x7f.1/", "host"),
        ("http://0177.0.0.1/", "host"),
        ("http://0/", "host"),
        ("http://1.2.3.4.5/", "host"),
        ("http://example.com:22/", "port"),
        ("http://example.com:6379/", "port"),
        ("http://example.com:0/", "port"),
        ("http://example.com:99999/", "port"),
        ("http://example.com:/", "host"),
        ("http://example.com:8\u0660/", "host"),
        ("http://example.com:-80/", "host"),
        (f"http://example.com/{'a' * 2030}", "length"),
    ],
)
def test_a_url_is_refused_by_the_rule_it_breaks(text: str, reason: str):
    assert refusal(text) == reason


@pytest.mark.parametrize(
    ("text", "authority", "target"),
    [
        ("https://Example.COM", "example.com", "/"),
        ("https://example.com:443/a?b=c%2Fd&e=#f", "example.com", "/a?b=c%2Fd&e="),
        ("http://example.com:443/", "example.com:443", "/"),
        ("http://example.com/\u00e4 b".replace(" ", "_"), "example.com", "/%C3%A4_b"),
        ("http://[2606:4700:0::1111]/", "[2606:4700::1111]", "/"),
        ("http://8.8.8.8?q", "8.8.8.8", "/?q"),
        ("https://my_bucket.s3.example.com/k", "my_bucket.s3.example.com", "/k"),
        ("https://xn--exmple-cua.com/", "xn--exmple-cua.com", "/"),
    ],
)
def test_an_ordinary_url_is_read(text: str, authority: str, target: str):
    url = read_url(text, RULES)

    assert (url.authority, url.target) == (authority, target)


def test_only_https_passes_where_the_rules_say_so():
    assert refusal("http://example.com/", UrlRules(require_https=True)) == "scheme"


def test_the_ports_are_the_operators():
    assert read_url("http://example.com:8080/", UrlRules(ports=(8080,))).port == 8080


@pytest.mark.parametrize("host", ["store.example.com", "bucket.store.example.com", "STORE.example.com"])
def test_a_blocked_host_is_refused_with_all_below_it(host: str):
    assert refusal(f"https://{host}/other/photo?X-Amz-Signature=1", UrlRules(blocked_hosts=("store.example.com",))) == (
        "host"
    )


@pytest.mark.parametrize(
    ("location", "read"),
    [
        ("/b", "http://example.com:80/b"),
        ("c?d", "http://example.com:80/a/c?d"),
        ("//other.com/", "http://other.com:80/"),
        ("https://other.com/", "https://other.com:443/"),
    ],
)
def test_a_redirect_leads_where_browsers_go(location: str, read: str):
    url = read_url("http://example.com/a/", RULES).join(location, RULES)

    assert f"{url.scheme}://{url.host}:{url.port}{url.target}" == read


@given(st.text() | st.text(alphabet="htps:/.@[]%\\01x#?é\t").map("http://".__add__))
def test_any_text_is_read_or_refused(text: str):
    try:
        url = read_url(text, RULES)
    except RefusedError:
        return

    assert (url.host + url.target).isascii()
    assert "@" not in url.authority
