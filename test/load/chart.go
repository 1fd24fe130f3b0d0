// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// The plot's sizes in pixels.
const (
	chartWidth, chartHeight = 900, 460
	plotLeft, plotRight     = 80, 870
	plotTop, plotBottom     = 90, 390
)

// chartStyle has colours that can be read on white and on black; the background stays that of the page.
const chartStyle = `
  text { font: 13px sans-serif; fill: #444 }
  .title { font-size: 17px; font-weight: bold }
  .grid { stroke: #8886; stroke-width: 1 }
  .rss { stroke: #d97706 } .anon { stroke: #2563eb } .fit { stroke: #666; stroke-dasharray: 7 5 }
  polyline, .key { fill: none; stroke-width: 2 }
  @media (prefers-color-scheme: dark) { text { fill: #ccc } .anon { stroke: #7aa8ff } .rss { stroke: #f5b14c } .fit { stroke: #bbb } }
`

// writeChart draws the samples, and the line that was fitted to them, as an SVG.
func writeChart(w io.Writer, title string, samples []sample, fitted line) error {
	last := samples[len(samples)-1]
	highest := fitted.value(fitted.to)
	for _, s := range samples {
		highest = max(highest, float64(s.rss), fitted.value(fitted.from))
	}
	stepX, stepY := tick(float64(last.mints), 6), tick(highest/1e6, 6)
	topX := max(float64(last.mints), 1)
	topY := math.Ceil(highest/1e6/stepY) * stepY
	x := func(mints int64) float64 { return plotLeft + (plotRight-plotLeft)*float64(mints)/topX }
	y := func(bytes float64) float64 { return plotBottom - (plotBottom-plotTop)*bytes/1e6/topY }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img"><title>%s</title><style>%s</style>`+"\n",
		chartWidth, chartHeight, title, chartStyle)
	fmt.Fprintf(&b, `<text class="title" x="%d" y="30">%s</text>`+"\n", plotLeft, title)
	for v := 0.0; v <= topY+stepY/2; v += stepY {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1[3]f"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n",
			plotLeft, plotRight, y(v*1e6), plotLeft-8, y(v*1e6)+4, v)
	}
	for v := 0.0; v <= topX; v += stepX {
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1[1]f" y1="%d" y2="%d"/><text x="%.1[1]f" y="%[4]d" text-anchor="middle">%[5]s</text>`+"\n",
			x(int64(v)), plotBottom, plotBottom+5, plotBottom+22, thousands(int64(v)))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">mints and revocations</text>`+"\n", (plotLeft+plotRight)/2, plotBottom+48)
	fmt.Fprintf(&b, `<text transform="translate(24 %d) rotate(-90)" text-anchor="middle">resident memory, MB (10⁶ bytes)</text>`+"\n", (plotTop+plotBottom)/2)

	for i, key := range []struct{ class, text string }{
		{"rss", "resident"}, {"anon", "resident and not backed by a file"}, {"fit", fmt.Sprintf("least squares: %+.2f bytes for each mint", fitted.slope)},
	} {
		left := plotLeft + []int{0, 120, 390}[i]
		fmt.Fprintf(&b, `<line class="key %s" x1="%d" x2="%d" y1="58" y2="58"/><text x="%d" y="62">%s</text>`+"\n", key.class, left, left+26, left+34, key.text)
	}
	polyline := func(class string, value func(sample) float64) {
		fmt.Fprintf(&b, `<polyline class="%s" points="`, class)
		for _, s := range samples {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(s.mints), y(value(s)))
		}
		b.WriteString(`"/>` + "\n")
	}
	polyline("rss", func(s sample) float64 { return float64(s.rss) })
	polyline("anon", func(s sample) float64 { return float64(s.anon) })
	fmt.Fprintf(&b, `<polyline class="fit" points="%.1f,%.1f %.1f,%.1f"/>`+"\n</svg>\n",
		x(fitted.from), y(fitted.value(fitted.from)), x(fitted.to), y(fitted.value(fitted.to)))
	_, err := io.WriteString(w, b.String())
	return err
}

// tick returns a round distance of 1, 2 or 5 times a power of ten, so that an axis has at most so many of them.
func tick(top float64, most int) float64 {
	if top <= 0 {
		return 1
	}
	rough := top / float64(most)
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, factor := range []float64{1, 2, 5} {
		if factor*power >= rough {
			return factor * power
		}
	}
	return 10 * power
}

// thousands writes a number with spaces between groups of three digits.
func thousands(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s %03d", thousands(n/1000), n%1000)
}
