// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// orphans are things of the engine's that no lease, record or static role answered for when the load had ended, and what ended them.
type orphans struct {
	known map[string]*orphan
	now   map[string]bool
	first bool
}

type orphan struct {
	kind    string
	expires time.Time
	end     string // "" while it exists
}

// begin starts a look at everything. What is seen for the first time in a later one is not counted: it belongs to a lease that ends
// just then, or to a rotation.
func (o *orphans) begin(first bool) {
	o.first, o.now = first, map[string]bool{}
	if o.known == nil {
		o.known = map[string]*orphan{}
	}
}

func (o *orphans) note(kind, id string, expires time.Time) {
	o.now[kind+" "+id] = true
	if o.first {
		o.known[kind+" "+id] = &orphan{kind: kind, expires: expires}
	}
}

func (o *orphans) end() {
	for id, known := range o.known {
		switch {
		case known.end != "" || o.now[id]:
		case !known.expires.IsZero() && time.Now().After(known.expires):
			known.end = "expired"
		default:
			known.end = "removed by the engine"
		}
	}
}

// String counts them by kind and end.
func (o *orphans) String() string {
	counts := map[string]int{}
	for _, known := range o.known {
		end := known.end
		if end == "" {
			end = "left to expire or to tidy"
		}
		counts[known.kind+" "+end]++
	}
	if len(counts) == 0 {
		return "none"
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[what], what))
	}
	return strings.Join(parts, ", ")
}
