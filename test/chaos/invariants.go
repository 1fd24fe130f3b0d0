// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-databricks/internal/marker"
)

// tidyAfter is how long after its end tidy takes a service principal for garbage, with the time that a run may take to come.
const tidyAfter = 12 * time.Minute

// settle waits until nothing is broken any more: the write-ahead log is worked off, and leases that have ended are revoked. What is
// still broken when the patience is over is the error.
func (p *phase) settle(ctx context.Context) error {
	deadline := time.Now().Add(p.settings.patience)
	first, random := true, p.random(4)
	report, tidy := time.Now().Add(20*time.Second), time.Now().Add(time.Minute)
	for {
		if time.Now().After(tidy) {
			// The engine does so by itself once a day, which is too long to wait for.
			if err := p.runTidy(ctx, p.say); err != nil {
				return err
			}
			tidy = time.Now().Add(time.Minute)
		}
		v, err := p.view(ctx)
		if err != nil {
			return err
		}
		broken, err := p.revokeUnanswered(ctx, v)
		if err != nil {
			return err
		}
		if len(broken) == 0 {
			broken = append(p.broken(v, first), p.keep(random)...)
			first = false
		}
		switch {
		case len(broken) == 0:
			p.say("settled: orphans %s", p.figures.orphans.String())
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%d things are broken:\n  %s", len(broken), strings.Join(broken, "\n  "))
		case time.Now().After(report):
			p.say("%d things are not settled yet, for example: %s", len(broken), broken[0])
			report = time.Now().Add(20 * time.Second)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// revokeUnanswered revokes the leases that no client knows of, since the answer was lost: after that, every lease has a holder.
func (p *phase) revokeUnanswered(ctx context.Context, v *view) (left []string, err error) {
	client, err := p.leader(ctx)
	if err != nil {
		return nil, err
	}
	for id := range v.leases {
		p.ledger.mu.Lock()
		known := p.ledger.leases[id] != nil
		p.ledger.mu.Unlock()
		if known {
			continue
		}
		_, err := client.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true})
		if err != nil {
			left = append(left, fmt.Sprintf("lease %s, whose answer was lost, can't be revoked: %s", id, firstLine(err)))
			continue
		}
		p.figures.lostLeases++
		left = append(left, "lease "+id+" was revoked just now")
	}
	return left, nil
}

// broken returns what is not as it must be, and notes orphans.
func (p *phase) broken(v *view, first bool) []string {
	p.ledger.mu.Lock()
	defer p.ledger.mu.Unlock()
	var found []string
	complain := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	answered, copies := map[string]bool{}, map[ref]bool{}
	now, live := time.Now(), 0
	for id, entry := range p.ledger.leases {
		listed := v.leases[id]
		if listed {
			for _, object := range entry.objects {
				answered[object] = true
			}
			if entry.copied != nil {
				copies[*entry.copied] = true
			}
		}
		promised := !entry.ended && !entry.doubtful && now.Before(entry.promised)
		switch {
		case listed && entry.ended:
			complain("lease %s of a %s was revoked, but Vault lists it", id, entry.what)
		case listed && now.After(entry.latest):
			complain("lease %s of a %s must have ended at %s, but Vault lists it", id, entry.what, entry.latest.Format(time.RFC3339))
		case !listed && promised:
			complain("lease %s of a %s was promised until %s, but Vault does not list it", id, entry.what, entry.promised.Format(time.RFC3339))
		case listed && promised:
			if missing := p.missing(v, entry); missing != "" {
				complain("lease %s of a %s is alive, but %s", id, entry.what, missing)
			}
			live++
		}
	}
	o := &p.figures.orphans
	o.begin(first)
	found = append(found, p.brokenCredentials(v, answered)...)
	found = append(found, p.brokenSecrets(v, copies)...)
	found = append(found, p.brokenPermissions(v)...)
	o.end()
	p.figures.liveChecked = max(p.figures.liveChecked, live)
	return found
}

// missing tells what a live lease lacks, "" for nothing. The caller holds the ledger's lock.
func (p *phase) missing(v *view, entry *lease) string {
	for _, value := range []string{entry.token, entry.clientSecret} {
		if value != "" && !p.alive(v, value) {
			return "its credential is dead"
		}
	}
	for _, object := range entry.objects {
		if !v.present[object] {
			return object + " does not exist"
		}
	}
	if entry.copied != nil {
		if value, ok := v.secret(*entry.copied); !ok || !p.alive(v, value) {
			return fmt.Sprintf("%s/%s has no copy of a live credential", entry.copied.scope, entry.copied.key)
		}
	}
	if s := entry.secret; s != nil {
		last := s.attempts[len(s.attempts)-1]
		if value, _ := v.secret(s.ref); last.lease == entry && !unsure(s.attempts) && value != last.value {
			return fmt.Sprintf("secret %s/%s is %q and not %q", s.scope, s.key, value, last.value)
		}
	}
	return ""
}

// brokenCredentials looks at tokens, OAuth secrets and service principals.
func (p *phase) brokenCredentials(v *view, answered map[string]bool) (found []string) {
	o := &p.figures.orphans
	byMark := map[string]bool{}
	for _, sp := range v.shot.Principals {
		mark, ok := marker.Parse(sp.DisplayName)
		if !ok || mark.MountID != p.mountID {
			continue
		}
		byMark[sp.ID] = true
		if answered[sp.ID] {
			continue
		}
		o.note("service principal", sp.ID, time.Time{})
		if time.Now().After(mark.Until.Add(tidyAfter)) {
			found = append(found, fmt.Sprintf("service principal %s (%s) has no lease, and tidy has not removed it", sp.ID, sp.DisplayName))
		}
	}
	for _, t := range v.shot.Tokens {
		mark, ok := marker.Parse(t.Comment)
		if !ok || mark.MountID != p.mountID || p.operator.owned(t.ID) || answered[t.ID] || v.stored[t.ID] != "" {
			continue
		}
		o.note("token", t.ID, t.Expires)
		if t.Expires.IsZero() {
			found = append(found, fmt.Sprintf("token %s (%s) has neither a lease nor an end", t.ID, t.Comment))
		}
	}
	ours := map[string]bool{p.world.engine.ID: true}
	for _, app := range p.world.apps {
		ours[app.ID] = true
	}
	for _, s := range v.shot.OAuthSecrets {
		if !ours[s.Owner] && !byMark[s.Owner] || p.operator.owned(s.ID) || answered[s.ID] || v.stored[s.ID] != "" {
			continue
		}
		o.note("OAuth secret", s.ID, s.Expires)
		if s.Expires.IsZero() {
			found = append(found, fmt.Sprintf("OAuth secret %s of %s has neither a lease nor an end", s.ID, s.Owner))
		}
	}
	return found
}

// brokenSecrets looks at what is in scopes and in Unity Catalog. Nothing there ends by itself.
func (p *phase) brokenSecrets(v *view, copies map[ref]bool) (found []string) {
	kept, plain := map[ref]*staticRole{}, p.world.plain.all()
	for _, s := range p.world.statics {
		if s.copied != nil {
			kept[*s.copied] = s
		}
	}
	for _, scope := range append([]string{pushed, unity}, p.world.scopes...) {
		for key := range v.scopes[scope].Secrets {
			r := ref{scope, key}
			if kept[r] != nil || plain[r] != nil || p.operator.secrets[r] || copies[r] || v.leased(r.kind(), r) {
				continue
			}
			copied, isCopy := p.ledger.copies[r]
			if !isCopy {
				p.figures.orphans.note("secret", scope+"/"+key, time.Time{})
				found = append(found, fmt.Sprintf("secret %s/%s has no lease", scope, key))
				continue
			}
			p.figures.orphans.note("copy", scope+"/"+key, time.Time{})
			// The lease of an access token can't be shorter than the token, so the record of a lost one is kept as long.
			if copied.from.kind != "oauth_token" || time.Now().After(copied.until) {
				found = append(found, fmt.Sprintf("secret %s/%s, a copy from role %s, has no lease", scope, key, copied.from.name))
			}
		}
	}
	for r, may := range plain {
		value, ok := v.secret(r)
		if !ok {
			value = absent
		}
		if _, allowed := may[value]; !allowed {
			found = append(found, fmt.Sprintf("secret %s/%s, which is written without a lease, is %q, which it can't be", r.scope, r.key, value))
		}
	}
	for r, s := range kept {
		if value, ok := v.secret(r); !ok || !p.alive(v, value) {
			found = append(found, fmt.Sprintf("the copy of static role %s in %s/%s is not a live credential", s.name, r.scope, r.key))
		}
	}
	return found
}

// brokenPermissions looks at what permissions are, after leases on them came and went.
func (p *phase) brokenPermissions(v *view) (found []string) {
	for r, g := range p.ledger.permissions {
		is, want := v.scopes[r.scope].ACLs[r.key], g.before
		certain := !unsure(g.attempts)
		var by *lease
		for _, a := range g.attempts {
			if a.lease == nil || !v.leases[a.lease.id] {
				continue
			}
			by, want = a.lease, a.value
			// A lease that was being revoked, or has just ended, may be undone and still be listed.
			certain = certain && !a.lease.doubtful && time.Now().Before(a.lease.promised)
		}
		if is == want || by != nil && !certain {
			continue
		}
		if by == nil {
			p.figures.orphans.note("permission", r.scope+"/"+r.key, time.Time{})
			found = append(found, fmt.Sprintf("the permission of %s on %s is %q without a lease, and was %q before", r.key, r.scope, is, want))
			continue
		}
		found = append(found, fmt.Sprintf("the permission of %s on %s is %q, but lease %s makes it %q", r.key, r.scope, is, by.id, want))
	}
	return found
}
