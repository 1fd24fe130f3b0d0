// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// world is what the load uses.
type world struct {
	engine  simulator.Principal
	apps    []simulator.Principal // service principals that roles and static roles name
	roles   []role
	statics []*staticRole
	scopes  []string
	people  []string // that permissions are given to
	plain   *values  // secrets without a lease
}

// role is a role of the mount. That of a long role outlives the load and the waiting after it.
type role struct {
	name, kind string
	long       bool
}

// longest is how long a lease of the role can live.
func (r role) longest() time.Duration {
	switch {
	case r.kind == "oauth_token":
		return time.Hour + 5*time.Second
	case r.long:
		return 2*time.Hour + 5*time.Second
	}
	return 2*time.Minute + 5*time.Second
}

type staticRole struct {
	name   string
	period time.Duration
	app    string // id of the service principal whose OAuth secrets only this static role makes; "" for tokens
	copied *ref   // where it is delivered to, nil for nowhere
}

// setUp makes what the workspace and the mount need before the load. What an operator would have made is the operator's.
func (p *phase) setUp(ctx context.Context) error {
	if err := p.cluster.Mount(ctx, mount); err != nil {
		return err
	}
	client, err := p.leader(ctx)
	if err != nil {
		return err
	}
	w, ws := &p.world, p.workspace
	ws.AddGroup("readers")
	var config map[string]any
	if p.seed%2 == 0 {
		w.engine = ws.AddServicePrincipal("engine", true)
		id, secret := ws.AddOAuthSecret(w.engine, 0)
		p.operator.owns(id)
		config = map[string]any{"client_id": w.engine.ApplicationID, "client_secret": secret}
	} else {
		w.engine = ws.AddUser("engine@example.com", true)
		value, id := ws.AddToken(w.engine, "made by hand", 0)
		p.operator.owns(id)
		config = map[string]any{"token": value}
	}
	config["host"] = ws.URL()
	if err := writeAll(ctx, client, "config", config); err != nil {
		return err
	}
	status, err := p.read(ctx, "status")
	if err != nil {
		return err
	}
	p.mountID = text(status, "mount_id")

	for i := range 3 {
		name := "load" + strconv.Itoa(i)
		w.scopes = append(w.scopes, name)
		ws.AddScope(name, w.engine)
	}
	catalog, schema, _ := strings.Cut(unity, "/")
	ws.AddUCSchema(catalog, schema, w.engine)
	for i := range 20 {
		name := fmt.Sprintf("person%d@example.com", i)
		w.people = append(w.people, name)
		ws.AddUser(name, false)
	}
	p.ledger.init()
	for i, scope := range w.scopes {
		for j, person := range w.people {
			before := ""
			if (i+j)%4 == 0 {
				before = "READ"
				ws.PutACL(scope, person, before)
			}
			p.ledger.permissions[ref{scope, person}] = &permission{ref: ref{scope, person}, before: before}
		}
	}
	w.plain = newValues()
	if err := p.setUpRoles(ctx, client); err != nil {
		return err
	}
	p.operator.prepare(ws, w)
	return nil
}

func (p *phase) setUpRoles(ctx context.Context, client *api.Client) error {
	w, ws := &p.world, p.workspace
	app := func(name string) simulator.Principal {
		added := ws.AddServicePrincipal(name, false)
		ws.SetTokenPermission(added, true)
		w.apps = append(w.apps, added)
		return added
	}
	add := func(name, kind string, long bool, more map[string]any) error {
		data := map[string]any{"credential_type": kind, "ttl": "30s", "max_ttl": "2m"}
		if long {
			data["ttl"], data["max_ttl"] = "90m", "2h"
		}
		maps.Copy(data, more)
		w.roles = append(w.roles, role{name, kind, long})
		return writeAll(ctx, client, "roles/"+name, data)
	}
	type made struct {
		name, kind string
		long       bool
		more       map[string]any
	}
	obo := app("obo").ApplicationID
	list := []made{
		{"pat", "pat", false, nil}, {"pat-long", "pat", true, nil},
		{"obo", "obo_token", false, map[string]any{"application_id": obo}},
		{"obo-long", "obo_token", true, map[string]any{"application_id": obo}},
		{"sp", "service_principal", false, map[string]any{"groups": "readers"}},
		{"sp2", "service_principal", false, map[string]any{"entitlements": "workspace-access"}},
	}
	if p.seed%2 == 0 {
		list = append(list, made{"own", "oauth_token", false, nil})
	}
	// A service principal has room for five OAuth secrets, so there are several.
	for i := range 6 {
		name := "secret" + strconv.Itoa(i)
		list = append(list, made{name, "oauth_secret", i == 0, map[string]any{"application_id": app(name).ApplicationID}})
	}
	for i := range 2 {
		name := "token" + strconv.Itoa(i)
		list = append(list, made{name, "oauth_token", false, map[string]any{"application_id": app(name).ApplicationID}})
	}
	for _, m := range list {
		if err := add(m.name, m.kind, m.long, m.more); err != nil {
			return err
		}
	}

	static := func(name, kind string, period time.Duration, copied *ref) error {
		s := &staticRole{name: name, period: period, copied: copied}
		data := map[string]any{"credential_type": kind, "rotation_grace_period": "20s"}
		if period > 0 {
			data["rotation_period"] = period.String()
		} else {
			data["lifetime"] = "2h"
		}
		if kind != "pat" {
			a := app("static-" + name)
			data["application_id"] = a.ApplicationID
			if kind == "oauth_secret" {
				s.app = a.ID
			}
		}
		if copied != nil {
			maps.Copy(data, copied.delivery())
		}
		w.statics = append(w.statics, s)
		return writeAll(ctx, client, "static-roles/"+name, data)
	}
	for _, err := range []error{
		static("dash", "pat", time.Minute, &ref{w.scopes[0], "static-dash"}), static("report", "obo_token", 75*time.Second, &ref{unity, "static-report"}),
		static("bi", "oauth_secret", time.Minute, &ref{w.scopes[0], "static-bi"}), static("manual", "pat", 0, nil),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func writeAll(ctx context.Context, client *api.Client, path string, data map[string]any) error {
	if _, err := client.Logical().WriteWithContext(ctx, mount+"/"+path, data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
