// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// operator has things of its own in the workspace, which the engine must never touch: those that stay are compared byte by byte, and
// calls that would change any of them are seen as they come.
type operator struct {
	mu      sync.Mutex
	ids     map[string]bool      // of tokens, OAuth secrets and principals
	secrets map[ref]bool         // secrets and permissions
	scopes  map[string]bool      // with all that is in them
	ends    map[string]time.Time // of tokens and OAuth secrets that expire
	touched []string

	before []byte
}

func newOperator() *operator {
	return &operator{ids: map[string]bool{}, secrets: map[ref]bool{}, scopes: map[string]bool{}, ends: map[string]time.Time{}}
}

func (o *operator) owns(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[id] = true
}

func (o *operator) owned(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ids[id]
}

// prepare makes the operator's things, beside those of the load and away from them.
func (o *operator) prepare(ws *simulator.Workspace, w *world) {
	person := ws.AddUser("operator@example.com", true)
	ws.AddUser("reader@example.com", false)
	o.owns(person.ID)
	for i := range 5 {
		sp := ws.AddServicePrincipal(fmt.Sprintf("operator's app %d vault:not-a-mark", i), false)
		o.owns(sp.ID)
		id, _ := ws.AddOAuthSecret(sp, 0)
		o.owns(id)
		for _, owner := range []simulator.Principal{person, w.engine, sp} {
			_, id := ws.AddToken(owner, fmt.Sprintf("operator's token %d", i), time.Duration(i)*24*time.Hour)
			o.owns(id)
		}
	}
	ws.AddScope("operator", person)
	o.scopes["operator"] = true
	for i := range 5 {
		ws.PutSecret("operator", fmt.Sprintf("key-%d", i), fmt.Appendf(nil, "operator's value %d", i))
	}
	ws.PutACL("operator", "reader@example.com", "READ")
	ws.AddScope(pushed, w.engine)
	for _, scope := range w.scopes {
		ws.PutSecret(scope, "operators-key", []byte("operator's value in "+scope))
		ws.PutACL(scope, "reader@example.com", "READ")
		o.secrets[ref{scope, "operators-key"}], o.secrets[ref{scope, "reader@example.com"}] = true, true
	}
	inUnity := strings.ReplaceAll(unity, "/", ".") + ".operators-key"
	ws.PutUCSecret(inUnity, "operator's value in "+unity, person)
	o.secrets[ref{unity, "operators-key"}] = true
	o.owns(inUnity)
	for _, app := range w.apps {
		o.owns(app.ID)
	}
	o.owns(w.engine.ID)
	o.before = o.state(ws.Snapshot())
}

// state is everything of the operator's that does not expire during the run, as JSON.
func (o *operator) state(shot simulator.Snapshot) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	mine := func(id string) bool { return o.ids[id] && o.ends[id].IsZero() }
	shot.Principals = slices.DeleteFunc(shot.Principals, func(p simulator.SnapshotPrincipal) bool { return !mine(p.ID) })
	shot.Tokens = slices.DeleteFunc(shot.Tokens, func(t simulator.SnapshotToken) bool { return !mine(t.ID) })
	shot.OAuthSecrets = slices.DeleteFunc(shot.OAuthSecrets, func(s simulator.SnapshotOAuthSecret) bool { return !mine(s.ID) })
	for i := range shot.Groups {
		shot.Groups[i].Members = slices.DeleteFunc(shot.Groups[i].Members, func(id string) bool { return !mine(id) })
	}
	for _, scope := range shot.Scopes {
		if o.scopes[scope.Name] {
			continue
		}
		maps.DeleteFunc(scope.Secrets, func(key string, _ simulator.SnapshotSecret) bool { return !o.secrets[ref{scope.Name, key}] })
		maps.DeleteFunc(scope.ACLs, func(principal, _ string) bool { return !o.secrets[ref{scope.Name, principal}] })
	}
	content, err := json.MarshalIndent(shot, "", " ")
	if err != nil {
		panic(err)
	}
	return content
}

// work makes tokens of the engine's identity, and OAuth secrets of the service principals that roles name, with lifetimes as the engine's
// have. They end by themselves.
func (o *operator) work(stop <-chan struct{}, ws *simulator.Workspace, random *rand.Rand) {
	var people, apps []simulator.Principal
	for _, sp := range ws.ServicePrincipals() {
		if strings.HasPrefix(sp.DisplayName, "secret") || strings.HasPrefix(sp.DisplayName, "token") {
			apps = append(apps, sp)
		} else if sp.DisplayName == "engine" || sp.DisplayName == "obo" {
			people = append(people, sp)
		}
	}
	for pause(stop, time.Duration(200+random.IntN(600))*time.Millisecond) {
		// Nothing of the engine's comes between, so that what it might do at once is seen.
		o.mu.Lock()
		var id string
		life := time.Duration(180+random.IntN(60)) * time.Second
		if app := apps[random.IntN(len(apps))]; random.IntN(2) == 0 && len(ws.OAuthSecrets(app)) < 3 {
			id, _ = ws.AddOAuthSecret(app, life)
		} else {
			_, id = ws.AddToken(people[random.IntN(len(people))], "operator's token for a while", life)
		}
		o.ids[id], o.ends[id] = true, time.Now().Add(life)
		o.mu.Unlock()
	}
}

// watch notes a call of the engine that changes what is the operator's.
func (o *operator) watch(call simulator.Call) {
	if call.Method == "GET" {
		return
	}
	var body struct {
		TokenID   string `json:"token_id"`
		Scope     string `json:"scope"`
		Key       string `json:"key"`
		Principal string `json:"principal"`
	}
	_ = json.Unmarshal(call.Body, &body)
	id := call.Path[strings.LastIndexByte(call.Path, '/')+1:]
	changes := call.Method != "POST" // of a collection, which only adds
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case changes && o.ids[id]:
	case o.ids[body.TokenID]:
		id = body.TokenID
	case o.scopes[body.Scope], o.secrets[ref{body.Scope, body.Key + body.Principal}]:
		id = body.Scope + "/" + body.Key + body.Principal
	default:
		return
	}
	o.touched = append(o.touched, fmt.Sprintf("%s %s touched %s, which is the operator's (until %s)", call.Method, call.Path, id, o.ends[id].Format(time.RFC3339)))
}

// check returns what was done to the operator's things.
func (o *operator) check(shot simulator.Snapshot) []string {
	live := map[string]bool{}
	for _, t := range shot.Tokens {
		live[t.ID] = true
	}
	for _, s := range shot.OAuthSecrets {
		live[s.ID] = true
	}
	after := o.state(shot)
	o.mu.Lock()
	defer o.mu.Unlock()
	found := slices.Clone(o.touched)
	for id, end := range o.ends {
		if !live[id] && time.Now().Add(time.Second).Before(end) {
			found = append(found, fmt.Sprintf("credential %s of the operator's, which lives until %s, is gone", id, end.Format(time.RFC3339)))
		}
	}
	if string(after) != string(o.before) {
		found = append(found, firstDifference(string(o.before), string(after)))
	}
	return found
}

func firstDifference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("the operator's things have changed: %q was %q", b[i], a[i])
		}
	}
	return fmt.Sprintf("the operator's things have changed: %d lines were %d", len(b), len(a))
}
