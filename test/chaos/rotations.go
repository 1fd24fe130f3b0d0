// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// rootCredential is the name of the engine's own credential among those that are rotated.
const rootCredential = "root"

// rotations counts, of each credential that is rotated, what asked for it and what came of it.
type rotations struct {
	mu        sync.Mutex
	began     time.Time
	requested map[string]int
	created   map[string]int             // calls that created a credential at Databricks
	lost      map[string]int             // of them, without an answer
	seen      map[string]map[string]bool // values of last_vault_rotation
	sampled   time.Time                  // when they were last looked at
}

func (r *rotations) request(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.requested == nil {
		r.requested = map[string]int{}
	}
	r.requested[name]++
}

// observe sees every call that the workspace has worked on.
func (p *phase) observe(call simulator.Call) {
	if !call.Effect {
		return
	}
	p.operator.watch(call)
	token := strings.HasSuffix(call.Path, "/token/create") || strings.HasSuffix(call.Path, "/on-behalf-of/tokens")
	secret := strings.HasSuffix(call.Path, "/credentials/secrets")
	if call.Method != "POST" || !token && !secret {
		return
	}
	name := ""
	if _, rest, found := bytes.Cut(call.Body, []byte("Vault static role ")); token && found {
		name, _, _ = strings.Cut(string(rest), " ")
	} else if token && (bytes.Contains(call.Body, []byte("Vault's own")) || bytes.Contains(call.Body, []byte(`Vault\u0027s own`))) {
		name = rootCredential
	} else if secret {
		owner := strings.Split(call.Path, "/")[5]
		if owner == p.world.engine.ID {
			name = rootCredential
		}
		for _, s := range p.world.statics {
			if s.app == owner {
				name = s.name
			}
		}
	}
	if name == "" {
		return
	}
	r := &p.rotations
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.created == nil {
		r.created, r.lost = map[string]int{}, map[string]int{}
	}
	r.created[name]++
	if call.Status != 200 || call.Fault {
		r.lost[name]++
	}
}

// sampleRotations looks at last_vault_rotation of everything that is rotated, until it is stopped.
func (p *phase) sampleRotations(stop <-chan struct{}) {
	r := &p.rotations
	r.began, r.seen = time.Now(), map[string]map[string]bool{}
	paths := map[string]string{rootCredential: "config"}
	for _, s := range p.world.statics {
		paths[s.name] = "static-roles/" + s.name
	}
	for pause(stop, 500*time.Millisecond) {
		for name, path := range paths {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			data, err := p.read(ctx, path)
			cancel()
			if err != nil {
				continue
			}
			r.mu.Lock()
			if r.seen[name] == nil {
				r.seen[name] = map[string]bool{}
			}
			r.seen[name][text(data, "last_vault_rotation")] = true
			r.sampled = time.Now()
			r.mu.Unlock()
		}
	}
}

// total is how often last_vault_rotation was seen to move.
func (r *rotations) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, seen := range r.seen {
		n += max(0, len(seen)-1)
	}
	return n
}

// check returns what was rotated more often than somebody asked or the schedule says. An attempt that a kill or a lost answer has
// interrupted may be made again.
func (r *rotations) check(statics []*staticRole, kills int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	look := func(name string, period time.Duration, first int) {
		due := func(until time.Time) int {
			if period == 0 {
				return 0
			}
			return int(until.Sub(r.began)/period) + 1
		}
		if moved, most := len(r.seen[name])-1, r.requested[name]+due(r.sampled); moved > most {
			found = append(found, fmt.Sprintf("the credential of %s was rotated %d times, but %d rotations were requested and at most %d due", name, moved, r.requested[name], due(r.sampled)))
		}
		if most := first + r.requested[name] + due(time.Now()) + r.lost[name] + kills; r.created[name] > most {
			found = append(found, fmt.Sprintf("%d credentials were created for %s, with %d requests, at most %d due, %d answers lost and %d kills", r.created[name], name, r.requested[name], due(time.Now()), r.lost[name], kills))
		}
	}
	look(rootCredential, 0, 0)
	for _, s := range statics {
		look(s.name, s.period, 1)
	}
	return found
}
