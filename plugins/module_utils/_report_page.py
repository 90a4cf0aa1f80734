# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Style and script of the report's page. PRIVATE: may change in any release.

The page reads without the script, which only filters, and asks nobody for anything. Colours of text keep a contrast of
at least 4.5 to 1 to what they stand on, in both themes; a test computes it from the variables below.
"""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--sunk:#f1f3f6;--line:#dfe3e8;--text:#1b1f27;--soft:#565e6c;
--link:#0b5cad;--focus:#0b5cad;--critical:#a3123a;--high:#b3400a;--medium:#7f5b00;--low:#22629f;--info:#59616e;
--pass:#17703a;--fail:#a3123a;--unknown:#6a3fa8;--waived:#59616e;--none:#59616e;--on:#fff;--track:#e4e7ec;
--ink:#2a5bd7;--fixbox:#eaf6ee;--fixline:#17703a}
@media(prefers-color-scheme:dark){:root{--page:#101318;--card:#181c23;--sunk:#0f1217;--line:#2c323c;--text:#e7eaf0;
--soft:#a3acba;--link:#86b7ff;--focus:#86b7ff;--critical:#ff8ba3;--high:#ffa36b;--medium:#e8bf52;--low:#85bdf5;
--info:#aab3c0;--pass:#6fd397;--fail:#ff8ba3;--unknown:#c3a3f7;--waived:#aab3c0;--none:#aab3c0;--on:#14171c;
--track:#2b313b;--ink:#7ea2ff;--fixbox:#13241b;--fixline:#6fd397}}
*{box-sizing:border-box}
html{scroll-padding-top:4rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}
h1,h2,h3,h4,p,ul,ol,dl,dd,figure,table{margin:0}
ul,ol{padding:0;list-style:none}
h1{font-size:clamp(1.5rem,1.1rem + 1.8vw,2.1rem);line-height:1.2;letter-spacing:-.015em}
h2{font-size:1.35rem;line-height:1.3;letter-spacing:-.01em}
h3{font-size:1rem;line-height:1.4;font-weight:600}
h4{font-size:.8rem;font-weight:600;color:var(--soft);text-transform:uppercase;letter-spacing:.05em}
a{color:var(--link)}
code,pre,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;
font-size:.86em;unicode-bidi:isolate}
bdi{overflow-wrap:anywhere}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px;border-radius:4px}
.wrap{max-width:72rem;margin:0 auto;padding:0 clamp(1rem,4vw,2rem)}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.5rem 1rem;z-index:9}
.sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.top{padding-top:clamp(1.5rem,4vw,2.75rem);padding-bottom:1.25rem}
.top p{color:var(--soft);margin-top:.4rem}.top .verdict{color:var(--text);font-size:1.15rem;margin-top:.75rem}
nav{position:sticky;top:0;z-index:5;background:var(--page);border-bottom:1px solid var(--line)}
nav ul{display:flex;gap:.25rem;overflow-x:auto;scrollbar-width:none}
nav a{display:block;padding:.7rem .75rem;color:var(--soft);text-decoration:none;white-space:nowrap;font-weight:500}
nav a:hover{color:var(--text);box-shadow:inset 0 -2px var(--ink)}
nav ul.wrap{padding-left:calc(clamp(1rem,4vw,2rem) - .75rem)}
main>section{padding:2.25rem 0 .5rem}
main>section:first-child{padding-top:1.25rem}
main>section>h2+p,.lead{color:var(--soft);margin-top:.25rem;max-width:46rem}
.grid{display:grid;gap:1rem;margin-top:1rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.1rem 1.25rem;min-width:0}
.hero{grid-template-columns:minmax(0,1fr) minmax(0,1.45fr) minmax(0,1.2fr)}
.two{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.ring{display:flex;align-items:center;gap:1.1rem;margin-top:.35rem}
.ring div{min-width:6rem}
.ring svg{width:7rem;height:7rem;flex:none}
.ring text{font-size:34px;font-weight:650;fill:var(--text);text-anchor:middle;letter-spacing:-1px}
.track{stroke:var(--track);fill:none}.arc{fill:none;stroke-linecap:round}
.big{font-size:1.9rem;font-weight:650;line-height:1.1;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.small{font-size:.87rem;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.75rem;margin-top:.65rem}
.tiles dt{font-size:.87rem;color:var(--soft);display:flex;align-items:center;gap:.4rem;overflow-wrap:normal}
.tiles div{display:flex;flex-direction:column-reverse;justify-content:flex-end}
.tiles.three{grid-template-columns:repeat(3,minmax(0,1fr))}
.dot{width:.6rem;height:.6rem;border-radius:50%;flex:none;display:inline-block}
.bar{display:block;width:100%;height:.6rem;border-radius:.3rem;margin:1rem 0 .6rem;overflow:hidden;background:var(--track)}
.bg-critical{background:var(--critical)}.bg-high{background:var(--high)}.bg-medium{background:var(--medium)}
.bg-low{background:var(--low)}.bg-info{background:var(--info)}
.f-critical{fill:var(--critical)}.f-high{fill:var(--high)}.f-medium{fill:var(--medium)}.f-low{fill:var(--low)}
.f-info,.f-not_applicable{fill:var(--info)}.f-pass{fill:var(--pass)}.f-fail{fill:var(--fail)}
.f-unknown{fill:var(--unknown)}.f-waived{fill:var(--waived)}
.s-critical{stroke:var(--critical)}.s-high{stroke:var(--high)}.s-medium{stroke:var(--medium)}.s-low{stroke:var(--low)}
.s-none,.s-info{stroke:var(--pass)}
.chip{display:inline-block;border-radius:5px;padding:.08rem .45rem;font-size:.76rem;font-weight:650;line-height:1.5;
letter-spacing:.02em;color:var(--on);white-space:nowrap}
.tag{display:inline-block;border:1px solid currentColor;border-radius:5px;padding:0 .4rem;font-size:.76rem;
font-weight:600;line-height:1.5;white-space:nowrap}
.t-pass{color:var(--pass)}.t-fail{color:var(--fail)}.t-unknown{color:var(--unknown)}
.t-waived,.t-not_applicable{color:var(--soft)}.t-new{color:var(--ink)}
.scroll{overflow-x:auto;margin:.5rem -1.25rem -.4rem;padding:0 1.25rem}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th{text-align:left;font-weight:600}
thead th{color:var(--soft);font-size:.82rem;white-space:nowrap}
th,td{padding:.5rem .9rem .5rem 0;vertical-align:top;border-bottom:1px solid var(--line)}
th:last-child,td:last-child{padding-right:0}
tbody tr:last-child>*{border-bottom:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tbody th{font-weight:550}
th.key{white-space:nowrap}
caption{text-align:left}
.spark{width:6rem;height:1.6rem;display:block}
.spark polyline,.chart polyline{fill:none;stroke:var(--ink);stroke-width:2;stroke-linejoin:round;stroke-linecap:round;
vector-effect:non-scaling-stroke}
.chart{display:block;width:100%;height:auto;margin-top:.5rem}
.chart text{font-size:12px;fill:var(--soft)}.chart .val{fill:var(--text);font-weight:650;font-size:14px}
.chart line{stroke:var(--line)}.chart .area{fill:var(--ink);opacity:.12}.chart circle{fill:var(--ink)}
form{display:flex;flex-wrap:wrap;gap:.65rem .9rem;align-items:end;margin-top:1rem}
form[hidden]{display:none}
fieldset{border:0;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.35rem}
legend,label.l{font-size:.82rem;font-weight:600;color:var(--soft);padding:0;display:block;margin-bottom:.25rem}
input[type=search],select{font:inherit;font-size:.95rem;color:inherit;background:var(--card);border:1px solid var(--soft);
border-radius:7px;padding:.4rem .6rem;width:100%;height:2.45rem}
.grow{flex:1 1 12rem}.pick{flex:1 1 7.5rem;min-width:7.5rem}
.sev{position:relative;display:inline-flex}
.sev input{position:absolute;opacity:0;inset:0;margin:0;cursor:pointer;width:100%;height:100%}
.sev>span{border:1px solid var(--soft);border-radius:7px;padding:.4rem .7rem;font-size:.9rem;color:var(--soft);
background:var(--card);height:2.45rem;display:flex;align-items:center;gap:.4rem}
.sev input:checked+span{color:var(--text);border-color:var(--text);font-weight:600}
.sev input:not(:checked)+span .dot{opacity:.3}
.sev input:focus-visible+span{outline:3px solid var(--focus);outline-offset:2px}
button{font:inherit;font-size:.9rem;color:var(--link);background:none;border:0;padding:.4rem .2rem;cursor:pointer;
text-decoration:underline;height:2.45rem}
.status{display:flex;flex-wrap:wrap;gap:0 1rem;align-items:center;justify-content:space-between;margin-top:.5rem}
.group{background:var(--card);border:1px solid var(--line);border-radius:12px;margin-top:.75rem;border-left:5px solid}
.group[hidden],.place[hidden]{display:none}
.b-critical{border-left-color:var(--critical)}.b-high{border-left-color:var(--high)}
.b-medium{border-left-color:var(--medium)}.b-low{border-left-color:var(--low)}.b-info{border-left-color:var(--info)}
summary{cursor:pointer;list-style:none}
summary::-webkit-details-marker{display:none}
summary::after{content:"";width:.55rem;height:.55rem;border:solid var(--soft);border-width:0 2px 2px 0;
transform:rotate(45deg);flex:none;margin:.35rem .25rem 0 auto}
details[open]>summary::after{transform:rotate(225deg);margin-top:.6rem}
.group>summary{display:flex;gap:.3rem .7rem;align-items:flex-start;padding:.8rem 1.1rem}
.group>summary .head{display:flex;flex-wrap:wrap;gap:.1rem .7rem;align-items:center;min-width:0}
.group>summary .id{color:var(--soft);font-weight:600;font-variant-numeric:tabular-nums}
.body{padding:0 1.1rem .9rem;display:grid;grid-template-columns:minmax(0,1fr);gap:.75rem}
.place{padding:.55rem 0;border-top:1px solid var(--line);display:grid;gap:.3rem 1.25rem;align-items:start;
grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.place .line{display:flex;flex-wrap:wrap;gap:.1rem .75rem;align-items:baseline;padding-top:.15rem}
.place .line+.why,.place .seen~.why{grid-column:1/-1}
.place .seen{display:block;background:var(--sunk);border-radius:6px;padding:.35rem .6rem;
white-space:pre-wrap}
.place .why{font-size:.93rem}
.fix{background:var(--fixbox);border-left:3px solid var(--fixline);border-radius:0 6px 6px 0;padding:.45rem .8rem;
display:flex;gap:.8rem;align-items:baseline}
.fix h4{color:var(--fixline);text-transform:none;letter-spacing:0;font-size:.95rem;flex:none}
.fix p{min-width:0}
.meta{display:flex;flex-wrap:wrap;gap:.4rem 1rem;align-items:center}
.meta .more[open]{flex-basis:100%}
.more>summary,.fold>summary{display:inline-flex;gap:.5rem;color:var(--link);font-size:.93rem;font-weight:500}
.more>summary::after,.fold>summary::after{border-color:var(--link);width:.45rem;height:.45rem;margin-top:.45rem}
.more[open]>summary::after,.fold[open]>summary::after{margin-top:.65rem}
.examples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:.75rem;margin-top:.6rem}
pre{margin:.25rem 0 0;background:var(--sunk);border-radius:6px;padding:.6rem .75rem;overflow-x:auto;white-space:pre-wrap}
.refs{display:flex;flex-wrap:wrap;gap:.3rem .4rem}
.refs li{font-size:.8rem;color:var(--soft);border:1px solid var(--line);border-radius:5px;padding:.05rem .45rem}
.list>li{padding:.55rem 0;border-bottom:1px solid var(--line)}
.list>li:last-child{border-bottom:0}
.list .line{display:flex;flex-wrap:wrap;gap:.15rem .7rem;align-items:baseline}
.none{color:var(--soft);margin-top:1rem}
.tabs{margin-top:1rem}
.tabs>input{position:absolute;opacity:0;pointer-events:none}
.tabs>label{display:inline-block;padding:.5rem .9rem;border:1px solid var(--line);border-radius:8px;margin:0 .35rem .5rem 0;
cursor:pointer;background:var(--card);color:var(--soft);font-weight:500}
.tabs>input:checked+label{color:var(--text);border-color:var(--ink);box-shadow:inset 0 0 0 1px var(--ink);font-weight:650}
.tabs>input:focus-visible+label{outline:3px solid var(--focus);outline-offset:2px}
.panel{display:none}
#s0:checked~.p0,#s1:checked~.p1,#s2:checked~.p2,#s3:checked~.p3,#s4:checked~.p4,#s5:checked~.p5{display:block}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin-top:.6rem;font-size:.9rem}
.legend li{display:flex;align-items:center;gap:.4rem}
.legend b{font-variant-numeric:tabular-nums;font-weight:600}
.col .legend{display:grid;gap:.15rem}
.col .legend+p,.tiles+p.small{margin-top:.6rem}
.legend svg{width:.7rem;height:.7rem}
.rows{display:grid;gap:.35rem}
.rows li{display:grid;grid-template-columns:7.2rem minmax(0,1fr);gap:.1rem .6rem;align-items:baseline}
.rows.sevs li{grid-template-columns:4.6rem minmax(0,1fr)}
.half{width:52%}
.sect{width:8rem;font-variant-numeric:tabular-nums}
footer{margin-top:3rem;padding:1.5rem 0 3rem;border-top:1px solid var(--line);color:var(--soft);font-size:.9rem}
footer p{max-width:46rem}footer p+p{margin-top:.5rem}
.names{min-width:10rem}
@media(max-width:60rem){.hero,.two{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}.hero .wide{grid-column:1/-1;order:-1}
.two>*{grid-column:1/-1}}
@media(max-width:38rem){body{font-size:15.5px}.hero{grid-template-columns:minmax(0,1fr)}.hero .wide{order:0}
.chart text{font-size:21px}.chart .val{font-size:24px}.card{padding:.95rem 1rem}.scroll{margin:.5rem -1rem -.3rem;padding:0 1rem}
.stack thead{display:none}.stack tr{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:.2rem .75rem;padding:.7rem 0;
border-bottom:1px solid var(--line);align-items:center}.stack tbody tr:last-child{border-bottom:0}
.stack th,.stack td{border:0;padding:0}.stack .full{grid-column:1/-1}.stack .left{text-align:left}
.place{grid-template-columns:minmax(0,1fr)}.hero .tiles{gap:.4rem}.hero .tiles dt{font-size:.8rem;gap:.3rem}
.pick{flex:1 1 44%}.rows li,.rows.sevs li{display:block}.rows li>span:first-child{margin-right:.5rem}.half{width:auto}
.sect{width:4.6rem}.tabs>label{padding:.45rem .7rem}.group>summary,.body{padding-left:.85rem;padding-right:.85rem}
.ring svg{width:6rem;height:6rem}.sev>span{padding:.4rem .5rem;font-size:.85rem;gap:.3rem}}
@media print{@page{size:A4;margin:14mm 13mm}
:root{--page:#fff;--card:#fff;--sunk:#f3f4f6;--line:#c9ced6;--text:#000;--soft:#434a56;--link:#000;--critical:#a3123a;
--high:#b3400a;--medium:#7f5b00;--low:#22629f;--info:#59616e;--pass:#17703a;--fail:#a3123a;--unknown:#6a3fa8;
--waived:#59616e;--on:#fff;--track:#e4e7ec;--ink:#2a5bd7;--fixbox:#f1f7f3;--fixline:#17703a}
html{font-size:9.5pt}body{font-size:9.5pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}
nav,form,.status,.skip,.tabs>label,summary::after,.more{display:none!important}
.wrap{max-width:none;padding:0}.top{padding:0 0 .5rem}main>section{padding:1.2rem 0 .3rem}
.hero{grid-template-columns:minmax(0,1.15fr) minmax(0,1.45fr) minmax(0,1.2fr)}.hero .wide{grid-column:auto;order:0}
.ring svg{width:5rem;height:5rem}.place{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.two{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}.two>*{grid-column:auto}.chart text{font-size:12px}.chart .val{font-size:14px}
details::details-content{content-visibility:visible;display:block}
.panel{display:block;margin-bottom:.8rem}
h2,h3,summary,.fix h4{break-after:avoid}.place,.fix,.hero .card,tr,.list>li{break-inside:avoid}
.card,.group{border-radius:6px}a{text-decoration:none}.scroll{overflow:visible}.fold>summary{color:var(--text)}}
@media(prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
""".strip()

SCRIPT = """
(function(){
"use strict";
var form=document.getElementById("filter");if(!form)return;
var box=form.elements,groups=[].slice.call(document.querySelectorAll(".group")),out=document.getElementById("shown");
var sections=[].slice.call(document.querySelectorAll("[data-list]"));
var texts=null,total=document.querySelectorAll(".place").length;
function index(){texts=groups.map(function(g){var head=g.querySelector("summary").textContent.toLowerCase();
return [].map.call(g.querySelectorAll(".place"),function(p){return head+" "+p.textContent.toLowerCase()})})}
function wanted(){return [].filter.call(form.querySelectorAll("[name=sev]"),function(i){return i.checked}).map(function(i){return i.value})}
function apply(){
var q=box.q.value.trim().toLowerCase().split(/\\s+/).filter(Boolean),sev=wanted(),aud=box.audited.value,st=box.state.value,std=box.standard.value,n=0;
if(q.length&&!texts)index();
groups.forEach(function(g,gi){
var ok=sev.indexOf(g.dataset.s)>=0&&(!std||(" "+g.dataset.std+" ").indexOf(" "+std+" ")>=0),any=0;
[].forEach.call(g.querySelectorAll(".place"),function(p,pi){
var see=ok&&(!aud||p.dataset.a===aud)&&(!st||p.dataset.t===st||(st==="open"&&p.dataset.t==="new"))&&q.every(function(w){return texts[gi][pi].indexOf(w)>=0});
p.hidden=!see;if(see){any++;n++}});
g.hidden=!any;
var c=g.querySelector(".count"),all=g.querySelectorAll(".place").length;
c.textContent=any<all?any+" of "+c.dataset.all:c.dataset.all});
sections.forEach(function(s){var e=s.querySelector(".empty");if(e)e.hidden=!!s.querySelector(".group:not([hidden])")});
out.textContent=n===total?"All "+total+" findings":n+" of "+total+" findings";
var h=[];
if(box.q.value.trim())h.push("q="+encodeURIComponent(box.q.value.trim()));
if(sev.length<form.querySelectorAll("[name=sev]").length)h.push("sev="+sev.join("."));
if(aud)h.push("audited="+aud);if(st)h.push("state="+st);if(std)h.push("standard="+std);
return h.join("&")}
function changed(){var h=apply();try{history.replaceState(null,"",h?"#"+h:"#findings")}catch(e){location.hash=h}}
function read(){
var h=location.hash.slice(1);if(h.indexOf("=")<0)return;
form.reset();
h.split("&").forEach(function(part){
var i=part.indexOf("="),k=part.slice(0,i),v;try{v=decodeURIComponent(part.slice(i+1))}catch(e){return}
if(k==="q")box.q.value=v;
else if(k==="sev"){v=v.split(".");[].forEach.call(form.querySelectorAll("[name=sev]"),function(c){c.checked=v.indexOf(c.value)>=0})}
else if(k==="audited"||k==="state"||k==="standard"){box[k].value=v;if(box[k].selectedIndex<0)box[k].value=""}})}
function all(open){groups.forEach(function(g){g.open=open})}
form.addEventListener("input",changed);
form.addEventListener("submit",function(e){e.preventDefault()});
form.addEventListener("reset",function(){setTimeout(changed,0)});
document.getElementById("openall").addEventListener("click",function(){all(true)});
document.getElementById("closeall").addEventListener("click",function(){all(false)});
function reveal(){var t=document.getElementById(location.hash.slice(1));if(!t||!t.classList.contains("group"))return;
if(t.hidden){form.reset();apply()}t.open=true;t.scrollIntoView()}
window.addEventListener("hashchange",function(){read();apply();reveal()});
var was=null;
window.addEventListener("beforeprint",function(){was=[].map.call(
document.querySelectorAll("details:not(.more)"),function(d){var o=d.open;d.open=true;return [d,o]})});
window.addEventListener("afterprint",function(){if(was)was.forEach(function(w){w[0].open=w[1]});was=null});
form.hidden=false;[].forEach.call(document.querySelectorAll(".js"),function(e){e.hidden=false});
read();apply();reveal();
})();
""".strip()
