"""The page's style sheet: dark text on light, one column, tables that scroll inside their own boxes."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; max-width: 68rem; margin: 0 auto;
  padding: 1rem; color: #1a1a1a; background: #fff; }
h1, h2, h3, h4 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 1.4rem 0 .8rem; }
h2 { font-size: 1.35rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 2px solid #1a1a1a; }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
h4 { font-size: 1rem; margin: .9rem 0 .2rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
a { color: #1d5a96; }
figure { margin: .8rem 0; min-width: 0; }
figcaption { font-size: .875rem; color: #444; margin-top: .25rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.tall { max-height: 26rem; overflow-y: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .65rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
thead th { background: #f4f6f8; font-size: .875rem; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
/* Token lengths are short and stay in sight while a wide table scrolls; names of runs and classes would hide it. */
[aria-label="accuracy and compute"] tbody th, [aria-label="measured speed"] tbody th {
  position: sticky; left: 0; background: #fff; }
tbody th { font-weight: 600; }
.verdict { padding: .6rem .8rem; margin: .5rem 0; background: #eef4fb; border-left: 4px solid #2a6cab; }
.bad { background: #fdeeee; border-left-color: #b3261e; }
.note { color: #444; font-size: .9rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: .5rem 1.2rem; }
.plots > figure { max-width: 34rem; }
svg { display: block; width: 100%; height: auto; }
.matrix td, .matrix th { padding: .25rem .5rem; }
.matrix td { text-align: center; min-width: 2.6rem; }
.map { display: block; width: 100%; max-width: 34rem; height: auto; image-rendering: pixelated; border: 1px solid #ccc; }
.kind { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; border-bottom: 1px solid #eee; padding-bottom: .5rem; }
.cell { flex: 1 1 14rem; min-width: 0; }
.length { display: block; font-size: .875rem; color: #444; }
.shown { display: inline-flex; gap: 1px; margin: 2px 6px 2px 0; vertical-align: top; max-width: 100%; overflow-x: auto; }
.shown img { display: block; height: auto; max-width: none; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .1rem 1rem; margin: .5rem 0; }
dt { color: #444; }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .3rem 0; }
@media (max-width: 30rem) { body { padding: .75rem; } th, td { padding: .3rem .5rem; } }
"""
