"""The page's Jinja2 template."""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Accuracy and compute of {{ runs | length }} run{{ "s" if runs | length != 1 }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; color: #1a1a1a; }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.verdict { padding: .6rem .8rem; background: #eef4fb; border-left: 4px solid #3a78b5; }
svg { width: 100%; max-width: 40rem; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>Accuracy and compute</h1>
<p>GMACs are multiply-accumulates / 10<sup>9</sup> of one view, attention included; papers call them GFLOPs. The adaptive
row includes the assigner. Random deals the same lengths out by chance; oracle is the shortest length that is right.</p>
{% for warning in warnings %}
<p class="verdict">{{ warning }}</p>
{% endfor %}
{% if compared %}
<div class="scroll">
<table>
<thead><tr>{% for heading in compared_columns.values() %}<th>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in compared %}
<tr>{% for key in compared_columns %}<td>{{ row[key] | shown }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% for run in runs %}
<section>
<h2>{{ run.name }}</h2>
{% if run.verdict %}
<p class="verdict">{{ run.verdict }}</p>
{% endif %}
<p>{{ run.evaluated | shown }} samples evaluated, {{ run.failed | shown }} failed.</p>
<div class="scroll">
<table>
<thead><tr>{% for heading in columns.values() %}<th>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in run.rows %}
<tr>{% for key in columns %}<td>{{ row[key] | shown }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{{ run.plot | safe }}
{% if run.failures %}
<details><summary>Samples that could not be read</summary>
<ul>{% for failure in run.failures %}<li>{{ failure.path }}: {{ failure.reason }}</li>{% endfor %}</ul>
</details>
{% endif %}
{% if run.facts %}
<details><summary>How it was measured</summary>
<dl>{% for name, value in run.facts.items() %}<dt>{{ name }}</dt><dd>{{ value | shown }}</dd>{% endfor %}</dl>
</details>
{% endif %}
</section>
{% endfor %}
</body>
</html>
"""
