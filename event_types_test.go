// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// eventLedger holds the events of all tests against eventTypes, from which their docs are made.
type eventLedger struct {
	mu     sync.Mutex
	seen   map[string]map[string]bool // by kind, the fields that were seen
	broken map[string]bool
}

var allEvents = eventLedger{seen: make(map[string]map[string]bool), broken: make(map[string]bool)}

// note takes an event. Kinds without a dash were made up by a test.
func (l *eventLedger) note(kind string, metadata map[string]any) {
	kind = strings.TrimPrefix(kind, "databricks/")
	if !strings.Contains(kind, "-") {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(eventTypes, func(e eventType) bool { return e.kind == kind })
	if i < 0 {
		l.broken["the event "+kind+" is not in eventTypes"] = true
		return
	}
	if l.seen[kind] == nil {
		l.seen[kind] = make(map[string]bool)
	}
	for _, field := range eventTypes[i].fields {
		if _, sent := metadata[field.name]; sent {
			l.seen[kind][field.name] = true
		} else if !field.sometimes {
			l.broken[fmt.Sprintf("the event %s lacks %s", kind, field.name)] = true
		}
	}
	for name := range metadata {
		known := slices.ContainsFunc(eventTypes[i].fields, func(f eventField) bool { return f.name == name })
		if !known && name != logical.EventMetadataPath && name != logical.EventMetadataModified {
			l.broken[fmt.Sprintf("the event %s has a field %s that is not in eventTypes", kind, name)] = true
		}
	}
}

// problems are the mistakes so far. all says that every test was run, so that no event may have been left out.
func (l *eventLedger) problems(all bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := slices.Sorted(maps.Keys(l.broken))
	for _, e := range eventTypes {
		for _, field := range append([]eventField{{}}, e.fields...) {
			if all && (l.seen[e.kind] == nil || field.name != "" && !l.seen[e.kind][field.name]) {
				found = append(found, strings.TrimSpace(fmt.Sprintf("no test has seen the event %s %s", e.kind, field.name)))
			}
		}
	}
	return found
}

// ranAll reports whether the tests were not narrowed down by a flag.
func ranAll() bool {
	return flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == "" && !testing.Short()
}

// TestEventsAreHeldAgainstTheirTable shows that the check of TestMain finds what it is for.
func TestEventsAreHeldAgainstTheirTable(t *testing.T) {
	t.Parallel()
	l := &eventLedger{seen: make(map[string]map[string]bool), broken: make(map[string]bool)}
	l.note("databricks/role-delete", map[string]any{"path": "roles/etl", "modified": "true", "name": "etl"})
	require.Empty(t, l.problems(false))
	require.Len(t, l.problems(true), len(eventTypes)-1+fieldsOfOtherEvents("role-delete"))
	l.note("databricks/role-delete", map[string]any{"role": "etl"})
	l.note("databricks/role-lost", nil)
	require.Equal(t, []string{
		"the event role-delete has a field role that is not in eventTypes", "the event role-delete lacks name", "the event role-lost is not in eventTypes",
	}, l.problems(false))
}

func fieldsOfOtherEvents(kind string) (n int) {
	for _, e := range eventTypes {
		if e.kind != kind {
			n += len(e.fields)
		}
	}
	return n
}

// TestEventTypesAreComplete: each row has what the docs need.
func TestEventTypesAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, e := range eventTypes {
		require.False(t, seen[e.kind], e.kind)
		seen[e.kind] = true
		require.Contains(t, e.kind, "-", "by which the tests tell it from those that they make up")
		require.Len(t, e.example, len(e.fields), e.kind)
		require.True(t, strings.HasSuffix(e.when, "."), e.kind)
		for i, field := range e.fields {
			require.NotEmpty(t, field.text, field.name)
			require.True(t, field.sometimes || e.example[i] != "", "%s %s", e.kind, field.name)
		}
	}
}
