// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// finish checks what needs no waiting: that everything works that should, what the operator has, how often was rotated, and that the
// revocation of everything empties the workspace.
func (p *phase) finish(ctx context.Context) error {
	var found []string
	complain := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, step := range []func(context.Context, func(string, ...any)) error{p.useLeases, p.useStatics, p.mintAfresh, p.runTidy, p.countIrrevocable} {
		if err := step(ctx, complain); err != nil {
			return errors.Join(err, asError(found))
		}
	}
	kills := int(p.figures.pluginKills.Load() + p.figures.serverKills.Load() + p.figures.stepDowns.Load())
	p.figures.rotated = p.rotations.total()
	found = append(found, p.rotations.check(p.world.statics, kills)...)
	v, err := p.view(ctx)
	if err != nil {
		return err
	}
	found = append(found, p.operator.check(v.shot)...)
	failures, err := p.cluster.Failures()
	if err != nil {
		return err
	}
	found = append(found, failures...)
	if err := asError(found); err != nil {
		return err
	}
	return p.revokeAll(ctx)
}

func asError(found []string) error {
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("%d things are broken:\n  %s", len(found), strings.Join(found, "\n  "))
}

// useLeases uses the credential of every live lease.
func (p *phase) useLeases(ctx context.Context, complain func(string, ...any)) error {
	v, err := p.view(ctx)
	if err != nil {
		return err
	}
	p.ledger.mu.Lock()
	defer p.ledger.mu.Unlock()
	for id, entry := range p.ledger.leases {
		if entry.token+entry.clientSecret == "" || !v.leases[id] || entry.doubtful || time.Now().Add(5*time.Second).After(entry.promised) {
			continue
		}
		if err := p.use(ctx, entry.token, entry.clientID, entry.clientSecret); err != nil {
			complain("lease %s of a %s is alive, but its credential can't be used: %v", id, entry.what, err)
		}
	}
	return nil
}

func (p *phase) useStatics(ctx context.Context, complain func(string, ...any)) error {
	for _, s := range p.world.statics {
		data, err := p.read(ctx, "static-creds/"+s.name)
		if err != nil {
			return err
		}
		if err := p.use(ctx, text(data, "token_value"), text(data, "client_id"), text(data, "client_secret")); err != nil {
			complain("the credential of static role %s can't be used: %v", s.name, err)
		}
	}
	return nil
}

// mintAfresh shows that the engine's own credential works, and every role.
func (p *phase) mintAfresh(ctx context.Context, complain func(string, ...any)) error {
	client, err := p.leader(ctx)
	if err != nil {
		return err
	}
	for _, r := range p.world.roles {
		began := time.Now()
		secret, err := client.Logical().WriteWithContext(ctx, mount+"/creds/"+r.name, map[string]any{})
		if err != nil {
			if r.kind != "oauth_secret" || !strings.Contains(err.Error(), "can have 5 OAuth secrets") {
				complain("role %s does not mint: %s", r.name, firstLine(err))
			}
			continue
		}
		entry := p.ledger.add(secret, began, credentialOf(secret, r, nil))
		if err := p.use(ctx, entry.token, entry.clientID, entry.clientSecret); err != nil {
			complain("a fresh credential of role %s can't be used: %v", r.name, err)
		}
	}
	return nil
}

// runTidy runs tidy, which must find nothing that is in use: settle has seen what it leaves.
func (p *phase) runTidy(ctx context.Context, complain func(string, ...any)) error {
	client, err := p.leader(ctx)
	if err != nil {
		return err
	}
	if err := writeAll(ctx, client, "tidy", nil); err != nil {
		return err
	}
	for {
		status, err := p.read(ctx, "tidy/status")
		if err != nil {
			return err
		}
		switch text(status, "state") {
		case "running":
		case "finished":
			return nil
		default:
			complain("tidy ended %v: %v", status["state"], status["last_error"])
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (p *phase) countIrrevocable(ctx context.Context, complain func(string, ...any)) error {
	client, err := p.leader(ctx)
	if err != nil {
		return err
	}
	secret, err := client.Logical().ReadWithDataWithContext(ctx, "sys/leases/count", map[string][]string{"type": {"irrevocable"}, "include_child_namespaces": {"false"}})
	if err != nil {
		return err
	}
	if n, _ := secret.Data["lease_count"].(json.Number); n.String() != "0" {
		complain("%s leases are irrevocable: %v", n, secret.Data["counts"])
	}
	return nil
}

// revokeAll revokes every lease of the mount at once. After that nothing may be left but what static roles, the config and the operator
// have, and what ends by itself.
func (p *phase) revokeAll(ctx context.Context) error {
	client, err := p.leader(ctx)
	if err != nil {
		return err
	}
	if _, err := client.Logical().WriteWithContext(ctx, "sys/leases/revoke-prefix/"+mount, map[string]any{"sync": true}); err != nil {
		return fmt.Errorf("revoking all leases: %w", err)
	}
	v, err := p.view(ctx)
	if err != nil {
		return err
	}
	p.ledger.mu.Lock()
	var found []string
	for id := range v.leases {
		found = append(found, "lease "+id+" is left after the revocation of all")
	}
	for id, entry := range p.ledger.leases {
		for _, object := range entry.objects {
			// What a lease was for, others can't have: but a service principal is also named by the OAuth secrets' leases.
			if v.present[object] && !p.operator.owned(object) {
				found = append(found, fmt.Sprintf("%s of lease %s (%s) is left after the revocation of all", object, id, entry.what))
			}
		}
		entry.ended = true
	}
	p.ledger.mu.Unlock()
	if err := asError(append(found, p.broken(v, false)...)); err != nil {
		return err
	}
	found = p.operator.check(v.shot)
	return asError(found)
}
