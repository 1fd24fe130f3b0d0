// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// sample is the memory of the plugin's process at one moment.
type sample struct {
	elapsed time.Duration // since the first mint
	mints   int64         // so far
	rss     int64         // bytes that are resident
	anon    int64         // those of them that no file backs: the heap and the stacks
}

// memoryOf reads the resident memory of a process from Linux's /proc.
func memoryOf(pid int) (rss, anon int64, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("reading the memory of the plugin's process, which needs Linux: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "RssAnon" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s in /proc: %w", name, err)
		}
		if name == "VmRSS" {
			rss = kib << 10
		} else {
			anon = kib << 10
		}
	}
	if rss == 0 || anon == 0 {
		return 0, 0, fmt.Errorf("/proc/%d/status has no VmRSS or no RssAnon", pid)
	}
	return rss, anon, nil
}

func writeCSV(w io.Writer, samples []sample) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"seconds", "mints", "rss_bytes", "rss_anon_bytes"}) // Flush reports the errors of all.
	for _, s := range samples {
		_ = out.Write([]string{
			strconv.FormatFloat(s.elapsed.Seconds(), 'f', 1, 64), strconv.FormatInt(s.mints, 10),
			strconv.FormatInt(s.rss, 10), strconv.FormatInt(s.anon, 10),
		})
	}
	out.Flush()
	return out.Error()
}

// at returns the first sample after that share of the mints. There must be a sample.
func at(samples []sample, share float64) sample {
	last := samples[len(samples)-1]
	for _, s := range samples {
		if float64(s.mints) >= share*float64(last.mints) {
			return s
		}
	}
	return last
}

// line is a straight line through measured values.
type line struct {
	slope, start float64 // bytes for each mint, and bytes at 0 mints
	from, to     int64   // mints
}

// fit returns the line with the least squares through the memory of all samples after that share of the mints.
func fit(samples []sample, after float64) line {
	first, last := at(samples, after), samples[len(samples)-1]
	var n, sumX, sumY float64
	for _, s := range samples {
		if s.mints >= first.mints {
			n, sumX, sumY = n+1, sumX+float64(s.mints), sumY+float64(s.anon)
		}
	}
	meanX, meanY := sumX/n, sumY/n
	var above, below float64
	for _, s := range samples {
		if s.mints >= first.mints {
			dx := float64(s.mints) - meanX
			above += dx * (float64(s.anon) - meanY)
			below += dx * dx
		}
	}
	fitted := line{start: meanY, from: first.mints, to: last.mints}
	if below > 0 {
		fitted.slope = above / below
		fitted.start = meanY - fitted.slope*meanX
	}
	return fitted
}

func (l line) value(mints int64) float64 { return l.start + l.slope*float64(mints) }

// growth returns by how many bytes the line rises, negative if it falls.
func (l line) growth() float64 { return l.slope * float64(l.to-l.from) }
