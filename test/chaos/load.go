// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	manyLeases = 300 // above that, clients revoke more than they mint
	pushed     = "pushed"
)

var serial atomic.Int64

// client sends requests of all kinds until it is stopped.
func (p *phase) client(stop <-chan struct{}, random *rand.Rand) {
	for pause(stop, time.Duration(random.IntN(80))*time.Millisecond) {
		if p.ledger.held() > manyLeases {
			p.revoke(random)
			continue
		}
		switch n := random.IntN(100); {
		case n < 28:
			p.mint(random, p.world.roles[random.IntN(len(p.world.roles))], nil)
		case n < 38:
			p.deliver(random)
		case n < 54:
			p.leaseSecret(random)
		case n < 66:
			p.leasePermission(random)
		case n < 72:
			p.writePlain(random)
		case n < 74:
			p.push(random)
		case n < 76:
			p.rotate(random)
		case n < 84:
			p.renew(random)
		default:
			p.revoke(random)
		}
	}
}

// longTTL is that of leases which are renewed until the end of the run. It is short, since what a lost lease was for is undone only after
// its end.
const longTTL = 90

// shortTTL is at times so short that the lease ends before the client has it.
func shortTTL(random *rand.Rand) string {
	return strconv.Itoa([]int{1, 1, 2, 5, 15, 40, 90}[random.IntN(7)])
}

func (p *phase) mint(random *rand.Rand, r role, target *ref) {
	data := map[string]any{}
	if r.long {
		data["ttl"] = longTTL
	} else if r.kind != "oauth_token" {
		data["ttl"] = shortTTL(random)
	}
	if target != nil {
		p.ledger.delivers(*target, r)
		maps.Copy(data, target.delivery())
	}
	began := time.Now()
	secret, err := p.write(random, "creds/"+r.name, data)
	if err != nil {
		return
	}
	p.figures.minted.Add(1)
	p.ledger.add(secret, began, credentialOf(secret, r, target))
}

// credentialOf is the lease of a credential, as the answer tells it.
func credentialOf(secret *api.Secret, r role, target *ref) *lease {
	entry := &lease{what: r.kind + " of role " + r.name, long: r.long, copied: target, latest: time.Now().Add(r.longest())}
	entry.token = text(secret.Data, "token_value") + text(secret.Data, "access_token")
	entry.clientID, entry.clientSecret = text(secret.Data, "client_id"), text(secret.Data, "client_secret")
	for _, field := range []string{"token_id", "secret_id", "service_principal_id"} {
		if id := text(secret.Data, field); id != "" {
			entry.objects = append(entry.objects, id)
		}
	}
	return entry
}

func (p *phase) scope(random *rand.Rand) string {
	return p.world.scopes[random.IntN(len(p.world.scopes))]
}

// space is a scope, or the schema of Unity Catalog.
func (p *phase) space(random *rand.Rand) string {
	if random.IntN(3) == 0 {
		return unity
	}
	return p.scope(random)
}

func (p *phase) deliver(random *rand.Rand) {
	p.mint(random, p.world.roles[random.IntN(len(p.world.roles))], &ref{p.space(random), fmt.Sprintf("copy-%d", serial.Add(1))})
}

// leaseSecret writes a leased secret: mostly to a key of its own, at times to one that others write to.
func (p *phase) leaseSecret(random *rand.Rand) {
	key, own := fmt.Sprintf("leased-%d", serial.Add(1)), true
	if random.IntN(4) == 0 {
		key, own = fmt.Sprintf("shared-%d", random.IntN(6)), false
	}
	s := p.ledger.shared(ref{p.space(random), key})
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ttl, long := fmt.Sprintf("value %d", serial.Add(1)), shortTTL(random), random.IntN(4) == 0
	if long {
		ttl = strconv.Itoa(longTTL)
	}
	began := time.Now()
	secret, err := p.write(random, s.path(), map[string]any{"string_value": value, "ttl": ttl, "if_absent": own && random.IntN(3) == 0})
	a := attempt{at: time.Now(), value: value}
	if err == nil {
		p.figures.minted.Add(1)
		a.lease = p.ledger.add(secret, began, &lease{what: "leased secret", long: long, secret: s, latest: began.Add(1000 * time.Hour)})
	}
	p.ledger.mu.Lock()
	s.attempts = append(s.attempts, a)
	p.ledger.mu.Unlock()
}

func (p *phase) leasePermission(random *rand.Rand) {
	g := p.ledger.permissions[ref{p.scope(random), p.world.people[random.IntN(len(p.world.people))]}]
	g.mu.Lock()
	defer g.mu.Unlock()
	value, ttl, long := []string{"READ", "WRITE", "MANAGE"}[random.IntN(3)], shortTTL(random), random.IntN(4) == 0
	if long {
		ttl = strconv.Itoa(longTTL)
	}
	began := time.Now()
	secret, err := p.write(random, "acls/"+g.scope+"/"+g.key, map[string]any{"permission": value, "ttl": ttl})
	a := attempt{at: time.Now(), value: value}
	if err == nil {
		p.figures.minted.Add(1)
		a.lease = p.ledger.add(secret, began, &lease{what: "leased permission", long: long, permission: g, latest: began.Add(1000 * time.Hour)})
	}
	p.ledger.mu.Lock()
	g.attempts = append(g.attempts, a)
	p.ledger.mu.Unlock()
}

func (p *phase) writePlain(random *rand.Rand) {
	r := ref{p.space(random), fmt.Sprintf("plain-%d", random.IntN(20))}
	lock := p.world.plain.lock(r)
	lock.Lock()
	defer lock.Unlock()
	value := fmt.Sprintf("plain value %d", serial.Add(1))
	p.world.plain.begin(r, value)
	if _, err := p.write(random, r.path(), map[string]any{"string_value": value}); err == nil {
		p.world.plain.commit(r, value)
	}
}

// push writes many secrets at once to a scope of their own, at times in place of all others.
func (p *phase) push(random *rand.Rand) {
	lock := p.world.plain.lock(ref{pushed, ""})
	lock.Lock()
	defer lock.Unlock()
	prune, sent, will := random.IntN(2) == 0, map[string]string{}, map[ref]string{}
	for i := range 20 {
		r := ref{pushed, fmt.Sprintf("key-%d", i)}
		if random.IntN(3) > 0 {
			sent[r.key] = fmt.Sprintf("pushed value %d", serial.Add(1))
			will[r] = sent[r.key]
		} else if prune {
			will[r] = absent
		}
	}
	for r, value := range will {
		p.world.plain.begin(r, value)
	}
	if _, err := p.write(random, "secrets/"+pushed, map[string]any{"secrets": sent, "prune": prune}); err == nil {
		for r, value := range will {
			p.world.plain.commit(r, value)
		}
	}
}

func (p *phase) rotate(random *rand.Rand) {
	if random.IntN(4) == 0 {
		p.rotations.request(rootCredential)
		_, _ = p.write(random, "config/rotate-root", nil)
		return
	}
	s := p.world.statics[random.IntN(len(p.world.statics))]
	p.rotations.request(s.name)
	_, _ = p.write(random, "rotate-role/"+s.name, nil)
}

func (p *phase) renew(random *rand.Rand) {
	if entry := p.ledger.pick(random, nil); entry != nil {
		_ = p.renewFor(random, entry, []int{2, 10, 60}[random.IntN(3)])
	}
}

// keep renews the leases that are to live until the end of the run, and returns the renewals that failed.
func (p *phase) keep(random *rand.Rand) (failed []string) {
	for {
		due := time.Now().Add(longTTL / 2 * time.Second)
		entry := p.ledger.pick(random, func(entry *lease) bool { return entry.long && entry.promised.Before(due) })
		if entry == nil {
			return failed
		}
		if err := p.renewFor(random, entry, longTTL); err != nil {
			return append(failed, fmt.Sprintf("lease %s of a %s can't be renewed: %s", entry.id, entry.what, firstLine(err)))
		}
	}
}

func (p *phase) renewFor(random *rand.Rand, entry *lease, seconds int) error {
	if entry.long {
		seconds = longTTL
	}
	began := time.Now()
	secret, err := p.request(random, "sys/leases/renew", map[string]any{"lease_id": entry.id, "increment": seconds})
	p.ledger.release(entry, func() {
		until := began.Add(time.Duration(seconds)*time.Second - time.Second)
		if err == nil {
			until = began.Add(time.Duration(secret.LeaseDuration)*time.Second - time.Second)
		}
		// A renewal can also shorten a lease, with or without an answer.
		if err == nil || until.Before(entry.promised) {
			entry.promised = until
		}
	})
	return err
}

func (p *phase) revoke(random *rand.Rand) {
	// Of those that are to live until the end of the run, few are revoked before.
	entry := p.ledger.pick(random, func(entry *lease) bool { return !entry.long || random.IntN(8) == 0 })
	if entry == nil {
		return
	}
	sync := random.IntN(2) == 0
	_, err := p.request(random, "sys/leases/revoke", map[string]any{"lease_id": entry.id, "sync": sync})
	p.ledger.release(entry, func() { entry.ended, entry.doubtful = err == nil, err != nil })
}
