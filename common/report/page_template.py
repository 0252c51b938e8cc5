"""The page's Jinja2 template."""

TEMPLATE = """{% macro table(columns, rows, caption, label, tall=false) %}
<figure>
<div class="scroll{{ " tall" if tall }}" tabindex="0" role="region" aria-label="{{ label }}">
<table>
<thead><tr>{% for heading in columns.values() %}<th scope="col">{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for key in columns %}{% if loop.first %}<th scope="row">{{ row[key] | shown }}</th>{% else %}<td>{{ row[key] | shown }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if caption %}
<figcaption>{{ caption }}</figcaption>
{% endif %}
</figure>
{% endmacro %}
{% macro plots(these) %}
{% if these %}
<div class="plots">
{% for plot in these %}
<figure>
{{ plot.svg | safe }}
<figcaption>{{ plot.caption }}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{% if runs | length == 1 %}{{ runs[0].name }}: accuracy, compute and speed{% else %}Accuracy, compute and speed of {{ runs | length }} runs{% endif %}</title>
<style>{{ style | safe }}</style>
</head>
<body>
{% for run in runs %}
<p class="verdict{{ " bad" if run.useless }}">{% if runs | length > 1 %}<a href="#{{ run.key }}">{{ run.name }}</a>: {% endif %}{{ run.verdict }}</p>
{% if run.clock %}
<p class="verdict{{ " bad" if run.slower }}">{% if runs | length > 1 %}<a href="#{{ run.key }}">{{ run.name }}</a>: {% endif %}{{ run.clock }}</p>
{% endif %}
{% endfor %}
{% for warning in warnings %}
<p class="verdict bad">{{ warning }}</p>
{% endfor %}
<h1>Accuracy, compute and speed</h1>
<p class="note">GMACs are multiply-accumulates / 10<sup>9</sup> of one view, attention and assigner included; papers of this field
call them GFLOPs. GFLOPs here are operations, two for each multiply-accumulate. Intervals and error bars are Wilson's, 95 %.
{% if adaptive %}
<em>Adaptive</em> is the assigner's choice of a token length for every input, <em>random</em> deals the same lengths out by
chance, <em>oracle</em> takes for each sample the shortest length that is right, and <em>cascade</em>, where there is one,
goes from the shortest length to longer ones until the answer is sure enough.
{% endif %}</p>
{% if compared %}
{{ table(compared_columns, compared, "All runs. Seconds are those of the stages.", "all runs") }}
{{ plots(compared_plots) }}
{% endif %}
{% for run in runs %}
<section id="{{ run.key }}">
<h2>{{ run.name }}</h2>
<p>{{ run.headline }}</p>
{{ table(columns, run.rows, run.rows_caption, "accuracy and compute") }}
{{ plots(run.plots) }}
{% if run.speed %}
<h3>Measured speed</h3>
{{ table(speed_columns, run.speed, run.speed_caption, "measured speed") }}
{{ plots(run.time_plots or []) }}
{% endif %}
{% if run.lengths %}
<h3>Token lengths</h3>
{{ table(run.length_columns, run.lengths, run.lengths_caption, "inputs by assigned length") }}
{{ table(run.needed_columns, run.needed, "Rows: the length that the assigner gave. Columns: the shortest length that is right. Right of the diagonal tokens were spent for nothing, left of it the answer came from too few.", "assigned against needed length") }}
{% endif %}
{% if run.examples %}
<h3>Examples by assigned length</h3>
<p class="note">As in Figure 6 of the ReViT paper: inputs that were answered rightly, by the length that the assigner gave
them. A fixed seed chose classes and inputs; an empty place means that there are no more of that class at that length.{{ run.strips }}</p>
{% for kind in run.examples %}
<h4>{{ kind.name }}</h4>
<div class="kind">
{% for cell in kind.cells %}
<div class="cell"><span class="length">{{ cell.length }}{{ ": none" if not cell.shown }}</span>
{% for one in cell.shown %}<span class="shown" title="{{ one.title }}">{% for frame in one.frames %}<img src="{{ frame.source }}" width="{{ frame.width }}" height="{{ frame.height }}" alt="{{ one.title }}{{ ", frame %d" % loop.index if one.frames | length > 1 }}">{% endfor %}</span>
{% endfor %}
</div>
{% endfor %}
</div>
{% endfor %}
{% endif %}
{% if run.classes %}
<h3>Classes</h3>
<div class="plots">
{{ table(class_columns, run.worst, run.worst_caption, "worst classes") }}
{% if run.confused %}
{{ table(pair_columns, run.confused, "Taken for another class most often; the share is of all samples of the class.", "confused classes") }}
{% endif %}
</div>
{% if run.matrix %}
<figure>
<div class="scroll" tabindex="0" role="region" aria-label="confusion matrix">
<table class="matrix">
<thead><tr><th scope="col">class</th>{% for name in run.matrix.names %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in run.matrix.rows %}
<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td style="background:rgb({{ cell.colour }});color:{{ cell.ink }}">{{ cell.count or "" }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
<figcaption>Samples of the row's class that were answered with the column's. {{ run.answers }}</figcaption>
</figure>
{% elif run.map %}
<figure>
<img class="map" src="{{ run.map.source }}" width="{{ run.map.width }}" height="{{ run.map.height }}" alt="confusion matrix of {{ run.map.classes }} classes">
<figcaption>Confusion of {{ run.map.classes }} classes in the order of their numbers: true class downwards, answer to the right;
the darker, the larger the share of the class. {{ run.answers }}</figcaption>
</figure>
{% endif %}
{% if run.classes | length > run.worst | length %}
<details><summary>All {{ run.classes | length }} classes</summary>
{{ table(class_columns, run.classes, "", "all classes", true) }}
</details>
{% endif %}
{% endif %}
{% for stage in run.training %}
<h3>Training: {{ stage.name }}</h3>
{{ plots(stage.plots) }}
{% endfor %}
<h3>How it was measured</h3>
<dl>{% for name, value in run.protocol.items() %}<dt>{{ name }}</dt><dd>{{ value | shown }}</dd>{% endfor %}</dl>
{% if run.operating_points %}
<h3>Budgets that can be asked for</h3>
{{ table(budget_columns, run.operating_points, run.points_caption, "operating points") }}
{% endif %}
{% if run.budget %}
<h3>The budget of this run</h3>
<dl>{% for name, value in run.budget.items() %}<dt>{{ name }}</dt><dd>{{ value | shown }}</dd>{% endfor %}</dl>
{% endif %}
{% if run.facts %}
<details><summary>Seconds of the stages and versions</summary>
<dl>{% for name, value in run.facts.items() %}<dt>{{ name }}</dt><dd>{{ value | shown }}</dd>{% endfor %}</dl>
</details>
{% endif %}
{% if run.failures %}
<details><summary>Samples that could not be read</summary>
<ul>{% for failure in run.failures %}<li>{{ failure.path }}: {{ failure.reason }}</li>{% endfor %}</ul>
</details>
{% endif %}
{% for sentence in run.missing %}
<p class="note">{{ sentence }}</p>
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""
