"""Check a report's page by reading it, without a browser: it is whole and self-contained."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from PIL import Image

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A parsed page: attributes that point somewhere, pictures, ids, tags, and the text in order."""

    def __init__(self, text):
        super().__init__()
        self.pointers, self.images, self.ids, self.open, self.texts, self.tags = [], [], [], [], [], []
        self.source = text
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.pointers += [values[name] for name in ("src", "href", "xlink:href", "srcset", "data") if name in values]
        self.pointers += re.findall(r"url\(([^)]*)\)", " ".join(filter(None, values.values())))
        if tag == "img":
            self.images.append(values)
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data):
        if data.strip() and not {"style", "title", "script"} & set(self.open):
            self.texts.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(self.texts)


def check(text):
    """Assert all that must hold of every page; return it parsed."""
    page = Page(text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text, "this script runs, and no other"
    assert page.tags.count("script") == 1
    assert not re.search(r"""\son\w+=["']""", text)
    assert not re.search(r"https?:|@import|url\(", re.sub(r"url\(#[\w-]+\)", "", text))
    ids = set(page.ids)
    assert len(ids) == len(page.ids)
    for pointer in page.pointers:
        assert pointer.startswith(("#", "data:"))
        assert not pointer.startswith("#") or pointer[1:] in ids
    for image in page.images:
        kind, _, data = image["src"].partition(";base64,")
        assert kind in ("data:image/jpeg", "data:image/png")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert (str(picture.width), str(picture.height)) == (image["width"], image["height"])
        assert image["alt"]
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing)
        assert tree.get("role") == "img"
        assert tree.get("aria-label")
        assert tree.get("viewBox")
    for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
        head, _, body = table.partition("</thead>")
        columns = head.count("<th ")
        assert columns >= 2
        for row in re.findall(r"<tr>.*?</tr>", body, flags=re.DOTALL):
            assert row.count("<th ") + row.count("<td") == columns
    assert page.tags.count("table") == text.count('<div class="scroll'), "wide tables scroll by themselves"
    assert 'name="viewport" content="width=device-width' in text
    return page
