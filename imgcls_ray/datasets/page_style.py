"""How the page about a dataset looks: light and dark as the reader's system, from a phone to a wide screen."""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --card: #f6f7f9; --text: #1c1f24; --soft: #5d6570; --line: #dde1e6;
  --link: #0b62b8; --error: #b42318; --warning: #8a5a00; --pass: #157347; --fail: #b42318; --bar: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --card: #1d2126; --text: #e6e8eb; --soft: #9aa3ad;
  --line: #343a42; --link: #6cb2ff; --error: #ff8a80; --warning: #f2c04d; --pass: #1b7f50; --fail: #a3271d;
  --bar: #4ba3dd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 16px; }
header { color: #fff; border-radius: 10px; padding: 18px 22px; }
header.pass { background: var(--pass); }
header.fail { background: var(--fail); }
header h1 { margin: 0; font-size: 28px; line-height: 1.2; }
header p { margin: 4px 0 0; }
.dataset { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere; }
h2 { margin: 32px 0 8px; font-size: 21px; }
h3 { margin: 20px 0 4px; font-size: 16px; }
p { margin: 4px 0 10px; }
a { color: var(--link); }
bdi { white-space: pre-wrap; overflow-wrap: break-word; }
figcaption bdi, .lost bdi, .dataset bdi { overflow-wrap: anywhere; }
bdi i { font-style: normal; font-family: ui-monospace, monospace; font-size: .85em; color: var(--error);
  border: 1px solid; border-radius: 3px; padding: 0 2px; }
span.error, span.warning { font-size: 13px; font-weight: 600; white-space: nowrap; }
span.error { color: var(--error); }
span.warning { color: var(--warning); }
.group { background: var(--card); border-left: 4px solid var(--line); border-radius: 6px; padding: 4px 16px 14px;
  margin: 14px 0; }
.group.error { border-color: var(--error); }
.group.warning { border-color: var(--warning); }
.group h3 { margin-top: 10px; }
.scroll, .chart { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td { min-width: 3em; max-width: 26em; overflow: hidden; font-variant-numeric: tabular-nums; }
.numbers th:not(:first-child), .numbers td:not(:first-child) { text-align: right; }
.other, .note { color: var(--soft); }
.note { font-size: 14px; margin-top: 8px; }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; margin: 10px 0; }
figure { margin: 0; max-width: 100%; }
figcaption { font-size: 12px; line-height: 1.35; color: var(--soft); max-width: 160px; margin-top: 4px;
  overflow: hidden; }
figcaption b { color: var(--text); }
.pair { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 4px; }
.pair + figcaption { max-width: 324px; }
.pictures img { display: block; max-width: 160px; max-height: 160px; border: 1px solid var(--line); }
.lost { width: 160px; min-height: 100px; padding: 8px; font-size: 12px; color: var(--error);
  border: 1px dashed var(--error); overflow: hidden; }
.chart { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 8px; }
.chart img { display: block; width: 100%; }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--link); }
.bars { width: 100%; max-width: 720px; table-layout: auto; }
.bars th { font-weight: 400; color: var(--text); width: 1%; }
.bars td { width: 1%; white-space: nowrap; text-align: right; padding-right: 8px; border: 0; }
.bars th { border: 0; }
.bars bdi { white-space: pre; }
.bars td:nth-child(2) { width: auto; max-width: none; text-align: left; }
.bars span { display: block; height: 14px; margin-top: 4px; min-width: 2px; border-radius: 2px;
  background: var(--bar); }
@media (max-width: 640px) {
  .stack thead { display: none; }
  .stack, .stack tbody, .stack tr, .stack td { display: block; width: 100%; max-width: none; }
  .stack tr { border-bottom: 1px solid var(--line); padding: 6px 0; }
  .stack td { border: 0; padding: 1px 0 1px 64px; position: relative; min-height: 1.5em; }
  .stack td:empty { display: none; }
  .stack td::before { content: attr(data-name); position: absolute; left: 0; color: var(--soft); }
  .stack bdi { overflow-wrap: anywhere; }
}
"""
