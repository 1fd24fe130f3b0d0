// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	secretTypeGrant = "databricks_acl"

	grantStoragePrefix = "grant/"
)

// grantID names one leased permission.
type grantID struct {
	aclPlace
	ID string `json:"id"`
}

// grants is what is kept of the leased permissions of one principal on one scope. Leases may overlap and end in any order,
// and Databricks knows only one permission, so each lease's share has to be remembered: the last lease that was given
// counts, and when none is left, what was there before the first.
type grants struct {
	aclPlace
	Base   string  `json:"base"` // what was there before, "" for none
	Leases []grant `json:"leases"`

	// Past has every permission that the leases have put here. Any other one was put by somebody else, who is right.
	// Databricks' answers may be minutes old, so the present one alone would not tell.
	Past []string `json:"past"`
}

type grant struct {
	ID         string `json:"id"`
	Permission string `json:"permission"`
}

// wanted is the permission that should be there now.
func (g *grants) wanted() string {
	if len(g.Leases) == 0 {
		return g.Base
	}
	return g.Leases[len(g.Leases)-1].Permission
}

// overruled tells whether somebody else has put the permission that is there.
func (g *grants) overruled(has string) bool {
	return has != g.Base && !slices.Contains(g.Past, has)
}

// grantsKey is where the leases of a principal on a scope are kept, by workspace: a mount may be connected to another. Names
// of scopes ignore case.
func grantsKey(made origin, place aclPlace) string {
	workspace := made.WorkspaceID
	if workspace == "" {
		workspace = made.Host
	}
	sum := sha256.Sum256([]byte(workspace + "\x00" + strings.ToLower(place.Scope) + "\x00" + place.Principal))
	return grantStoragePrefix + hex.EncodeToString(sum[:])
}

// readGrants answers nil when there are no leases.
func readGrants(ctx context.Context, s logical.Storage, key string, place aclPlace) (*grants, error) {
	entry, err := s.Get(ctx, key)
	if err != nil || entry == nil {
		return nil, err
	}
	g := new(grants)
	if err := entry.DecodeJSON(g); err != nil {
		return nil, fmt.Errorf("the stored leases of %s cannot be read: %w", place, err)
	}
	return g, nil
}

func (g *grants) save(ctx context.Context, s logical.Storage, key string) error {
	if len(g.Leases) == 0 {
		return s.Delete(ctx, key)
	}
	entry, err := logical.StorageEntryJSON(key, g)
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// turns lets one request at a time change the same thing at Databricks, such as the permission of a principal on a scope. A
// turn is held over calls to Databricks, which knows no compare-and-set; it holds up nobody but those who change the very
// same thing, and they can give up.
type turns struct {
	mu      sync.Mutex
	waiting map[string]*turn
}

type turn struct {
	free chan struct{} // holds one element when nobody has the turn
	n    int           // how many have it or wait for it
}

// take waits for the turn and answers how to leave it.
func (t *turns) take(ctx context.Context, what string) (leave func(), err error) {
	t.mu.Lock()
	if t.waiting == nil {
		t.waiting = make(map[string]*turn)
	}
	mine := t.waiting[what]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, 1)}
		mine.free <- struct{}{}
		t.waiting[what] = mine
	}
	mine.n++
	t.mu.Unlock()

	quit := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.n--; mine.n == 0 {
			delete(t.waiting, what)
		}
	}
	select {
	case <-mine.free:
		return func() { mine.free <- struct{}{}; quit() }, nil
	case <-ctx.Done():
		quit()
		return nil, ctx.Err()
	}
}

// grantSecret is the lease of a permission.
func (b *backend) grantSecret() *framework.Secret {
	return &framework.Secret{Type: secretTypeGrant, Fields: aclResponseFields, Renew: b.renewWrite, Revoke: b.revokeGrant}
}

// leaseGrant gives a permission that is taken back when its lease ends. The record comes first: should anything fail from
// then on, the lease that nobody got is ended again.
func (b *backend) leaseGrant(ctx context.Context, req *logical.Request, conn *connection, place aclPlace, permission string, asked time.Duration) (*logical.Response, error) {
	t, err := decideTerms(b.System(), conn.config, &roleEntry{}, asked)
	if err != nil {
		return nil, err
	}
	in, err := newIntent(ctx, conn)
	if err != nil {
		return nil, err
	}
	id := grantID{aclPlace: place, ID: in.Nonce}
	in.Grant = &id
	key := grantsKey(in.origin, place)
	leave, err := b.grantTurns.take(ctx, key)
	if err != nil {
		return nil, err
	}
	defer leave()
	has, err := permissionOf(ctx, conn, place)
	if err != nil {
		return nil, err
	}

	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), mintBudget)
	defer cancel()
	g, err := readGrants(lasting, req.Storage, key, place)
	if err != nil {
		return nil, err
	}
	switch {
	case g == nil:
		g = b.ownPuts.begin(key, place, has)
	case g.overruled(has):
		// Leases that somebody has overruled have nothing left to take back.
		b.ownPuts.forget(key)
		g = &grants{aclPlace: place, Base: has}
	}
	before := *g
	g.Leases = append(slices.Clone(g.Leases), grant{ID: id.ID, Permission: permission})
	if !slices.Contains(g.Past, permission) {
		g.Past = append(slices.Clone(g.Past), permission)
	}
	u, err := b.undertake(lasting, req.Storage, in)
	if err != nil {
		return nil, err
	}
	defer u.end(lasting)
	u.undo = func(ctx context.Context) error { return b.takeBack(ctx, req.Storage, conn, key, id) }
	internal, err := (&writeLease{origin: in.origin, Grant: &id, TTL: int64(t.ttl / time.Second)}).internalData()
	if err != nil {
		return nil, err
	}
	if err := g.save(lasting, req.Storage, key); err != nil {
		return nil, err
	}
	if err := setPermission(lasting, conn, place, permission); err != nil {
		if !hadNoEffect(err) {
			u.undo = nil // it may take effect only now, so it is left to the rollback to take it back
		} else if before.save(lasting, req.Storage, key) == nil {
			u.undo = nil
			u.failed(lasting, err)
		}
		return nil, err
	}
	if err := u.settle(lasting); err != nil {
		return nil, fmt.Errorf("a permission was given but could not be accounted for, so it is taken back; try again: %w", err)
	}

	resp := b.Secret(secretTypeGrant).Response(nil, internal)
	resp.Secret.TTL, resp.Secret.MaxTTL, resp.Warnings = t.ttl, t.maxTTL, t.warnings
	if err := u.handOver(ctx); err != nil {
		return nil, err
	}
	return resp, nil
}

// changeForGood sets a permission, "" for none, that no lease takes back.
func (b *backend) changeForGood(ctx context.Context, s logical.Storage, conn *connection, place aclPlace, permission string) error {
	made, err := conn.origin(ctx)
	if err != nil {
		return err
	}
	key := grantsKey(made, place)
	leave, err := b.grantTurns.take(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	b.ownPuts.forget(key)
	if err := setPermission(ctx, conn, place, permission); err != nil {
		return err
	}
	b.ownPuts.note(key, permission, nil)
	return s.Delete(context.WithoutCancel(ctx), key)
}

func (b *backend) revokeGrant(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, conn, err := b.leaseConnection(ctx, req)
	if err != nil {
		return nil, err
	}
	if l.Grant == nil {
		return nil, fmt.Errorf("the lease's internal data lacks grant")
	}
	if err := b.endGrant(ctx, req.Storage, conn, l.origin, *l.Grant); err != nil {
		return nil, fmt.Errorf("take back the leased permission of %s: %w", l.Grant.aclPlace, err)
	}
	b.event(ctx, "acl-revoke", req.Path, "scope", l.Grant.Scope, "principal", l.Grant.Principal)
	return &logical.Response{}, nil
}

// endGrant takes a leased permission back: what should be there without it is put there, unless somebody else has put
// something else. It may be repeated after a failure at any point.
func (b *backend) endGrant(ctx context.Context, s logical.Storage, conn *connection, made origin, id grantID) error {
	key := grantsKey(made, id.aclPlace)
	leave, err := b.grantTurns.take(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	return b.takeBack(ctx, s, conn, key, id)
}

// takeBack is endGrant for who has the turn.
func (b *backend) takeBack(ctx context.Context, s logical.Storage, conn *connection, key string, id grantID) error {
	g, err := readGrants(ctx, s, key, id.aclPlace)
	if err != nil {
		return err
	}
	if g == nil || !slices.ContainsFunc(g.Leases, func(l grant) bool { return l.ID == id.ID }) {
		// Overruled by a permission for good, or ended already.
		return nil
	}
	before := g.wanted()
	g.Leases = slices.DeleteFunc(g.Leases, func(l grant) bool { return l.ID == id.ID })
	has, err := permissionOf(ctx, conn, id.aclPlace)
	if err != nil {
		return err
	}
	if g.overruled(has) {
		b.Logger().Warn("a leased permission was changed since, so it is left alone", "scope", id.Scope, "principal", id.Principal, "given", before, "now", permissionWord(has))
		b.ownPuts.forget(key)
		return s.Delete(ctx, key)
	}
	// Written even where Databricks seems to have it already, since its answer may be old. A scope that is gone, or a
	// principal that Databricks does not know any more, has nothing to take back.
	err = setPermission(ctx, conn, id.aclPlace, g.wanted())
	if err != nil && !isGone(err) && !hasCode(err, "INVALID_PARAMETER_VALUE") {
		return err
	}
	if len(g.Leases) == 0 {
		b.ownPuts.note(key, g.Base, append([]string{g.Base}, g.Past...))
	}
	return g.save(ctx, s, key)
}

// aclStale is how long Databricks may go on answering with a permission that was changed since (Terraform provider for
// Databricks, which waits as long).
const aclStale = 5 * time.Minute

// ownPuts remembers what was put by us and is not in a record of leases any more, for as long as Databricks may answer with
// what was there before: taken for true, that would become the base of the next lease, and be put back for good by its end.
type ownPuts struct {
	mu   sync.Mutex
	last map[string]ownPut // by grantsKey
}

type ownPut struct {
	permission string
	past       []string // what an old answer may show; nil for anything
	at         time.Time
}

func (o *ownPuts) note(key, permission string, past []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last == nil {
		o.last = make(map[string]ownPut)
	}
	maps.DeleteFunc(o.last, func(_ string, put ownPut) bool { return time.Since(put.at) > aclStale })
	o.last[key] = ownPut{permission: permission, past: past, at: time.Now()}
}

func (o *ownPuts) forget(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.last, key)
}

// begin makes the record of a first lease. has is what Databricks answers, which is the base unless we know better.
func (o *ownPuts) begin(key string, place aclPlace, has string) *grants {
	o.mu.Lock()
	defer o.mu.Unlock()
	put, known := o.last[key]
	if !known || time.Since(put.at) > aclStale || put.past != nil && !slices.Contains(put.past, has) {
		return &grants{aclPlace: place, Base: has}
	}
	g := &grants{aclPlace: place, Base: put.permission, Past: slices.Clone(put.past)}
	if !slices.Contains(g.Past, has) {
		g.Past = append(g.Past, has)
	}
	return g
}

func permissionWord(permission string) string {
	if permission == "" {
		return "none"
	}
	return permission
}
