// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"html"
	"strings"
)

// bars is a plot of groups of bars, one a series, with the range of the values on top of each.
type bars struct {
	title  string
	unit   string
	groups []string
	series []string
	values map[string][]samples // by series, one a group
}

// Colours of the series, in light and dark.
var colours = [][2]string{{"#9aa0a6", "#80868b"}, {"#d93025", "#f28b82"}, {"#1a73e8", "#8ab4f8"}}

// svg draws the plot.
func (p bars) svg() string {
	const width, height, left, right, top, bottom = 720, 320, 60, 20, 50, 60
	highest := 0.0
	for _, groups := range p.values {
		for _, s := range groups {
			highest = max(highest, s.max())
		}
	}
	if highest == 0 {
		highest = 1
	}
	scale := func(value float64) float64 { return height - bottom - value/(highest*1.1)*(height-top-bottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n", width, height, html.EscapeString(p.title))
	b.WriteString("<style>text{font:12px system-ui,sans-serif;fill:#202124}.t{font-size:14px;font-weight:600}.a{stroke:#9aa0a6}.e{stroke:#202124}")
	for i, c := range colours {
		fmt.Fprintf(&b, ".s%d{fill:%s}", i, c[0])
	}
	b.WriteString("@media(prefers-color-scheme:dark){text{fill:#e8eaed}.e{stroke:#e8eaed}")
	for i, c := range colours {
		fmt.Fprintf(&b, ".s%d{fill:%s}", i, c[1])
	}
	b.WriteString("}</style>\n")
	fmt.Fprintf(&b, `<text class="t" x="%d" y="20">%s</text>`+"\n", left, html.EscapeString(p.title+" ("+p.unit+")"))
	for i := range 5 {
		value := highest * 1.1 * float64(i) / 5
		fmt.Fprintf(&b, `<line class="a" x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke-opacity=".3"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, width-right, scale(value), scale(value), left-6, scale(value)+4, short(value))
	}
	slot := float64(width-left-right) / float64(len(p.groups))
	bar := slot * 0.8 / float64(len(p.series))
	for g, group := range p.groups {
		begin := float64(left) + slot*float64(g) + slot*0.1
		for i, series := range p.series {
			s := p.values[series][g]
			x, y := begin+bar*float64(i), scale(s.median())
			middle := x + bar*0.45
			fmt.Fprintf(&b, `<rect class="s%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, i, x, y, bar*0.9, height-bottom-y)
			fmt.Fprintf(&b, `<line class="e" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, middle, middle, scale(s.min()), scale(s.max()))
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", middle, scale(s.max())-4, short(s.median()))
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", begin+slot*0.4, height-bottom+18, html.EscapeString(group))
	}
	x := left
	for i, series := range p.series {
		fmt.Fprintf(&b, `<rect class="s%d" x="%d" y="%d" width="10" height="10"/><text x="%d" y="%d">%s</text>`+"\n", i, x, height-20, x+16, height-11, html.EscapeString(series))
		x += 160
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// short writes a number with about three digits.
func short(value float64) string {
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}
