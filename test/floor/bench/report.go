// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// bar is a figure that the engine must reach.
type bar struct {
	what     string
	wanted   string
	measured string
	reached  bool
}

// spread writes the median, and the lowest and highest value.
func spread(s samples, unit string) string {
	return fmt.Sprintf("%s%s (%s to %s)", short(s.median()), unit, short(s.min()), short(s.max()))
}

// most is the number of clients whose throughput counts.
const most = 64

func (r *results) bars() []bar {
	throughput := ratios(r.rate[ourName][most], r.rate[floorName][most])
	added := r.p50[ourName][1].median() - r.p50[floorName][1].median() - r.bare.median()
	revoked := ratios(r.revoked[ourName], r.revoked[floorName])
	list := []bar{
		{"mints with 64 clients, of the floor", "0.60 at least", spread(throughput, ""), throughput.median() >= 0.60},
		{"one client: what a mint adds to the floor and the call to Databricks, median", "1.0 ms at most", fmt.Sprintf("%.2f ms", added), added <= 1},
		{"revocation by prefix, of the floor", "0.60 at least", spread(revoked, ""), revoked.median() >= 0.60},
		{"calls to Databricks for a mint, and for a revocation", "1.00, 1.00", fmt.Sprintf("%.2f, %.2f", r.calls, r.deletes), r.calls == 1 && r.deletes == 1},
		{"fetches of an access token for 1,000 requests at once", "1", strconv.FormatInt(r.tokens, 10), r.tokens == 1},
		{"a push of 1,000 keys at 20 ms each", "2.5 s at most", fmt.Sprintf("%.2f s", r.pushMS/1000), r.pushMS <= 2500},
	}
	if peer := r.rate[peerName][most]; len(peer) > 0 {
		of := ratios(peer, r.rate[floorName][most])
		list = append(list, bar{"mints with 64 clients, of the Terraform engine's", "above 1.00", spread(ratios(r.rate[ourName][most], peer), ""), throughput.median() > of.median()})
	}
	if floor, ok := r.mountKB[floorName]; ok {
		above := r.mountKB[ourName] - floor
		list = append(list, bar{"memory of a further mount above that of the null plugin", "64 KB at most", fmt.Sprintf("%.0f KB (%.0f, %.0f)", above, r.mountKB[ourName], floor), above <= 64})
	}
	return list
}

// summary is the table of the bars, in Markdown.
func (r *results) summary() string {
	var b strings.Builder
	b.WriteString("| What | Wanted | Measured | |\n|---|---|---|---|\n")
	for _, bar := range r.bars() {
		mark := "reached"
		if !bar.reached {
			mark = "**not reached**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", bar.what, bar.wanted, bar.measured, mark)
	}
	return b.String()
}

// writeDocs writes the page and its plots.
func (b *bench) writeDocs(dir, vault string) error {
	mints := bars{title: "Mints", unit: "a second", series: b.results.engines, values: make(map[string][]samples)}
	for _, clients := range clientCounts {
		name := strconv.Itoa(clients) + " clients"
		if clients == 1 {
			name = "1 client"
		}
		mints.groups = append(mints.groups, name)
		for _, e := range b.results.engines {
			mints.values[e] = append(mints.values[e], b.rate[e][clients])
		}
	}
	latency := bars{title: "Median latency of a mint", unit: "ms", groups: mints.groups, series: mints.series, values: make(map[string][]samples)}
	revoked := bars{title: "Revocation by prefix", unit: "leases a second", groups: []string{strconv.Itoa(b.n) + " leases"}, series: mints.series, values: make(map[string][]samples)}
	for _, e := range b.results.engines {
		for _, clients := range clientCounts {
			latency.values[e] = append(latency.values[e], b.p50[e][clients])
		}
		revoked.values[e] = []samples{b.revoked[e]}
	}
	for name, plot := range map[string]bars{"mints": mints, "latency": latency, "revocation": revoked} {
		if err := os.WriteFile(filepath.Join(dir, "benchmarks-"+name+".svg"), []byte(plot.svg()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "benchmarks.md"), []byte(b.page(vault)), 0o644)
}

// page is docs/benchmarks.md.
func (b *bench) page(vault string) string {
	output, _ := exec.Command(vault, "version").Output()
	version, _, _ := strings.Cut(string(output), ",") // the rest is when it was built
	var text strings.Builder
	fmt.Fprintf(&text, `# Benchmarks

This page is written by `+"`make bench-vault`"+`; nothing in it is typed by hand. It measures the engine against a *null plugin*, which is the least
that an external secrets engine can do: it returns a lease, calls nothing and stores nothing. Both take turns on one Vault dev server
(in-memory storage) with a Databricks that answers at once, so that what differs is the engine. Each value is the median of %d rounds, with the
lowest and the highest in parentheses. Ratios are taken within a round.

%s, %s, %d cores, %s, %s.

%s
## Mints

![mints a second](benchmarks-mints.svg)
![latency](benchmarks-latency.svg)

| | clients | mints a second | of the floor | median latency |
|---|---|---|---|---|
`, b.rounds, strings.TrimSpace(version), processor(), runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format("2006-01-02"), b.summary())
	for _, clients := range clientCounts {
		for _, e := range b.results.engines {
			fmt.Fprintf(&text, "| %s | %d | %s | %s | %s |\n", e, clients, spread(b.rate[e][clients], ""),
				spread(ratios(b.rate[e][clients], b.rate[floorName][clients]), ""), spread(b.p50[e][clients], " ms"))
		}
	}
	fmt.Fprintf(&text, `
**The limit.** No engine can answer sooner than Vault stores a lease (the null plugin: %s ms with one client) and Databricks answers one request
(the same call by Go's HTTP client alone: %s ms here; a real workspace takes 50 to 200 ms, which hides all of the rest). This engine takes %s ms, so
it adds %.2f ms: the entry of the write-ahead log, by which no credential is lost in a crash, is most of that.

## Revocation by prefix

![revocation](benchmarks-revocation.svg)

| | leases a second | of the floor |
|---|---|---|
`, short(b.p50[floorName][1].median()), short(b.bare.median()), short(b.p50[ourName][1].median()), b.p50[ourName][1].median()-b.p50[floorName][1].median()-b.bare.median())
	for _, e := range b.results.engines {
		fmt.Fprintf(&text, "| %s | %s | %s |\n", e, spread(b.revoked[e], ""), spread(ratios(b.revoked[e], b.revoked[floorName]), ""))
	}
	fmt.Fprintf(&text, `
The null plugin revokes nothing: the rest of its time is Vault's own. The limit for an engine is that plus one request to Databricks for each lease.

## The rest

| What | Measured |
|---|---|
| a cold start: from 1,000 requests at once, after the plugin was reloaded, to the last answer | %s; null plugin: %s |
| a push of 1,000 keys where each takes 20 ms (20 s one after the other) | %.2f s |
| a secret written, with %d entries of the write-ahead log open (none) | %.2f ms (%.2f ms) |
| a mint, with as many open (none) | %.2f ms (%.2f ms) |
`, spread(b.cold[ourName], " ms"), spread(b.cold[floorName], " ms"), b.pushMS/1000, b.logEntries, b.writeWith, b.writeWithout, b.mintWith, b.mintWithout)
	if floor, ok := b.mountKB[floorName]; ok {
		fmt.Fprintf(&text, "| memory of a further mount that has minted once, of 100 | %.0f KB; null plugin: %.0f KB |\n", b.mountKB[ourName], floor)
	}
	return text.String()
}

// processor names the CPU, as Linux does.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), ":"))
			}
		}
	}
	return runtime.GOARCH
}
