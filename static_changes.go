// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// writeStatic creates a static role with its first credential, or changes one. A change of what the credential is rotates it at
// once.
func (b *backend) writeStatic(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	leave, err := b.rotationTurns.take(ctx, staticStoragePrefix+name)
	if err != nil {
		return nil, err
	}
	defer leave()
	old, err := readStatic(ctx, req.Storage, staticStoragePrefix+name)
	if err != nil {
		return nil, err
	}
	switch {
	case old == nil && req.Operation == logical.PatchOperation:
		return nil, logical.CodedError(http.StatusNotFound, fmt.Sprintf("there is no static role %q; write it first", name))
	case old != nil && old.State.Deleting:
		return nil, badField(keyName, "static role %q is being deleted; delete it again, with force=true if what it made can't be removed", name)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if place := placeAsked(data, old); place.Scope != "" {
		// Nobody else takes the place while we look whether it is free.
		leave, err := b.rotationTurns.take(ctx, "place "+place.folded())
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	role, err := b.mergeStatic(ctx, req.Storage, name, data, conn, old)
	if err != nil {
		return nil, err
	}

	var e *staticEntry
	switch {
	case old == nil || !role.sameCredentials(&old.staticRole):
		e, err = b.rotateStatic(ctx, req, conn, name, old, role)
	default:
		e = old.clone()
		e.staticRole = *role
		if role.schedule != old.schedule {
			e.State.reschedule(role.schedule, b.now())
		}
		err = b.saveStatic(ctx, req.Storage, name, e)
	}
	if err != nil {
		return nil, err
	}
	settled, trouble := b.settleStatic(context.WithoutCancel(ctx), req.Storage, conn, name, e)
	if trouble != nil && old == nil {
		return nil, b.abandonStatic(context.WithoutCancel(ctx), req.Storage, conn, name, settled, trouble)
	}
	b.event(ctx, "static-role-write", req.Path, "name", name, "credential_type", role.CredentialType)

	resp := b.staticResponse(settled)
	if trouble != nil {
		resp.AddWarning(fmt.Sprintf("The static role was stored, but something is left to do, which is tried again at %s: %s", rfc3339(settled.State.Again), trouble))
	}
	b.addStaticWarnings(resp, conn, settled)
	return resp, nil
}

// placeAsked is where the role will deliver to if the request is granted.
func placeAsked(data *framework.FieldData, old *staticEntry) secretPlace {
	var place secretPlace
	if old != nil && old.place() != nil {
		place = *old.place()
	}
	if _, sent := data.Raw[keyDeliverScope]; sent {
		place.Scope = data.Get(keyDeliverScope).(string)
	}
	if _, sent := data.Raw[keyDeliverKey]; sent {
		place.Key = data.Get(keyDeliverKey).(string)
	}
	return place
}

// abandonStatic takes a new role back whose credential could not be delivered.
func (b *backend) abandonStatic(ctx context.Context, s logical.Storage, conn *connection, name string, e *staticEntry, why error) error {
	e = e.clone()
	e.State.Deleting = true
	if err := b.saveStatic(ctx, s, name, e); err != nil {
		return fmt.Errorf("the static role was stored, but could neither be completed nor taken back; it is completed within minutes, read it then, and delete it if it is not wanted: %w", errors.Join(why, err))
	}
	if _, err := b.settleStatic(ctx, s, conn, name, e); err != nil {
		return fmt.Errorf("the static role was not created, and what was made of it is removed within minutes: %w", errors.Join(why, err))
	}
	return fmt.Errorf("the static role was not created, and nothing is left of it: %w", why)
}

// mergeStatic lays the request's fields over the stored role, and holds the result against what Databricks says.
func (b *backend) mergeStatic(ctx context.Context, s logical.Storage, name string, data *framework.FieldData, conn *connection, old *staticEntry) (*staticRole, error) {
	before := new(staticRole)
	if old != nil {
		*before = old.staticRole
	}
	role := new(staticRole)
	if err := mergeFields(data, before, role, keyName, keyForce); err != nil {
		return nil, err
	}
	ids := &roleEntry{ServicePrincipalID: role.ServicePrincipalID, ApplicationID: role.ApplicationID}
	ids.forgetOtherID(data)
	role.ServicePrincipalID, role.ApplicationID = ids.ServicePrincipalID, ids.ApplicationID
	if err := role.schedule.check(b.now()); err != nil {
		return nil, err
	}
	if sent, ok := data.Raw[keyGrace]; (!ok || sent == nil) && (old == nil || ok) {
		role.Grace = int64(defaultGrace / time.Second)
		if role.automatic() {
			shortest, _ := role.spans(1, b.now())
			role.Grace = min(role.Grace, int64(shortest/time.Second))
		}
	}
	if err := role.check(b.now()); err != nil {
		return nil, err
	}
	mints := role.mints()
	if err := mints.check(); err != nil {
		return nil, err
	}
	if err := mints.settle(ctx, conn, before.mints()); err != nil {
		return nil, err
	}
	role.ServicePrincipalID, role.ApplicationID, role.Scopes = mints.ServicePrincipalID, mints.ApplicationID, mints.Scopes
	if place := role.place(); place != nil && (before.place() == nil || *before.place() != *place) {
		if err := b.checkPlaceFree(ctx, s, name, *place); err != nil {
			return nil, err
		}
		if _, err := conn.client.ListSecrets(ctx, place.Scope); isGone(err) {
			return nil, badField(keyDeliverScope, "there is no secret scope %q at %s; write scopes/%s first", place.Scope, conn.config.Host, place.Scope)
		} else if err != nil {
			return nil, explainSecrets(err, place.Scope, permissionRead)
		}
	}
	return role, nil
}

// checkPlaceFree refuses a place where another static role delivers to: each would overwrite what the other keeps there.
func (b *backend) checkPlaceFree(ctx context.Context, s logical.Storage, name string, place secretPlace) error {
	names, err := s.List(ctx, staticStoragePrefix)
	if err != nil {
		return err
	}
	for _, other := range names {
		if other == name {
			continue
		}
		e, err := b.static(ctx, s, other)
		if err != nil && !isUnreadable(err) {
			return err
		}
		if e != nil && e.place() != nil && e.place().folded() == place.folded() {
			return badField(keyDeliverKey, "%s is where static role %q delivers to; choose another key", place, other)
		}
	}
	return nil
}

// check refuses a role that could not be kept.
func (r *staticRole) check(now time.Time) error {
	if !slices.Contains(staticTypes, r.CredentialType) {
		problem := fmt.Sprintf("%q can't be static", r.CredentialType)
		if r.CredentialType == "" {
			problem = "is missing"
		}
		return badField(keyCredentialType, "%s; use one of: %s", problem, strings.Join(staticTypes, ", "))
	}
	if err := r.schedule.check(now); err != nil {
		return err
	}
	longest := int64(maxLifetime/time.Second) - maxLifetimeOffset
	switch {
	case r.Grace < 0 || r.Grace > longest:
		return badField(keyGrace, "%ds is out of range; send 0 to %d seconds", r.Grace, longest)
	case r.Lifetime < 0 || r.Lifetime > longest:
		return badField(keyLifetime, "%ds is out of range; send 0 (as long as the schedule needs) to %d seconds", r.Lifetime, longest)
	case r.Lifetime > 0 && r.Lifetime < int64(minRotationPeriod/time.Second):
		return badField(keyLifetime, "%ds is too short; send at least 60 seconds", r.Lifetime)
	case (r.DeliverScope == "") != (r.DeliverKey == ""):
		return badField(keyDeliverScope, "and %s belong together; send both or neither", keyDeliverKey)
	}
	if r.DeliverScope != "" {
		if err := checkName(keyDeliverScope, r.DeliverScope); err != nil {
			return err
		}
		if err := checkName(keyDeliverKey, r.DeliverKey); err != nil {
			return err
		}
	}
	if !r.automatic() {
		return nil
	}
	// A credential must live from one rotation to the next, and through its grace.
	_, gap := r.spans(1, now)
	least := int64(gap/time.Second) + r.Window + r.Grace
	room, _ := r.spans(maxOAuthSecrets-2, now)
	crowd, _ := r.spans(maxInGrace, now)
	switch {
	case r.Lifetime > 0 && r.Lifetime < least:
		return badField(keyLifetime, "%ds is too short; between two rotations and with %s and %s, a credential must live for %d seconds", r.Lifetime, keyRotationWindow, keyGrace, least)
	case int64(gap/time.Second)+r.Window > longest:
		return badField(keyRotationSchedule, "%q leaves more time from one rotation to the next than a credential can live, %d seconds", r.Cron, longest)
	case least > longest:
		return badField(keyGrace, "%ds is too long; with the schedule, credentials would have to live for %d seconds, and %d is the most that Databricks gives", r.Grace, least, longest)
	case seconds(r.Grace) > crowd:
		return badField(keyGrace, "%ds is too long; with this schedule, more than %d replaced credentials would be alive at once. It can be %d seconds at most", r.Grace, maxInGrace, int64(crowd/time.Second))
	case r.CredentialType == credentialOAuthSecret && seconds(r.Grace) > room:
		return badField(keyGrace, "%ds is too long; a service principal can have %d OAuth secrets, so with this schedule it can be %d seconds at most", r.Grace, maxOAuthSecrets, int64(room/time.Second))
	}
	return nil
}

func (b *backend) addStaticWarnings(resp *logical.Response, conn *connection, e *staticEntry) {
	mints := e.mints()
	switch e.CredentialType {
	case credentialOAuthSecret:
		for _, warning := range scopeWarnings(mints) {
			resp.AddWarning(warning)
		}
	default:
		for _, warning := range credentialTypes[e.CredentialType].warnings(conn.knownIdentity(), mints) {
			resp.AddWarning(warning)
		}
	}
	if !e.automatic() {
		resp.AddWarning(fmt.Sprintf("The role has no schedule, so its credential ends at %s unless rotate-role is written before.", rfc3339(e.State.Current.Expires)))
	}
}

func (b *backend) handleRotateRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	leave, err := b.rotationTurns.take(ctx, staticStoragePrefix+name)
	if err != nil {
		return nil, err
	}
	defer leave()
	old, err := readStatic(ctx, req.Storage, staticStoragePrefix+name)
	if err != nil {
		return nil, err
	}
	switch {
	case old == nil:
		return nil, badField(keyName, "there is no static role %q; list them at static-roles/", name)
	case old.State.Deleting:
		return nil, badField(keyName, "static role %q is being deleted", name)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	// What has had its grace makes room for the new one.
	if old, err = b.settleStatic(ctx, req.Storage, conn, name, old); err != nil {
		b.Logger().Warn("what a static role had to do before a rotation could not be done", "name", name, "error", err)
	}
	e, err := b.rotateStatic(ctx, req, conn, name, old, &old.staticRole)
	if err != nil {
		return nil, err
	}
	settled, trouble := b.settleStatic(context.WithoutCancel(ctx), req.Storage, conn, name, e)
	resp := b.staticResponse(settled)
	if trouble != nil {
		resp.AddWarning(fmt.Sprintf("The credential was replaced, but something is left to do, which is tried again at %s: %s", rfc3339(settled.State.Again), trouble))
	}
	b.addStaticWarnings(resp, conn, settled)
	return resp, nil
}

// deleteStatic first marks the role as being deleted, so that what can't be removed now is removed later.
func (b *backend) deleteStatic(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	force := data.Get(keyForce).(bool)
	leave, err := b.rotationTurns.take(ctx, staticStoragePrefix+name)
	if err != nil {
		return nil, err
	}
	defer leave()
	e, err := readStatic(ctx, req.Storage, staticStoragePrefix+name)
	if force && isUnreadable(err) {
		resp := &logical.Response{}
		resp.AddWarning("The static role could not be read, so what it made may be left at Databricks; tidy finds tokens of it.")
		return resp, b.forgetStatic(ctx, req.Storage, name)
	}
	if err != nil {
		return nil, err
	}
	if e == nil {
		return &logical.Response{}, nil
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil && !force {
		return nil, err
	}
	unconnected := err
	lasting := context.WithoutCancel(ctx)
	e.State.Deleting = true
	if err := b.saveStatic(lasting, req.Storage, name, e); err != nil {
		return nil, err
	}
	resp := &logical.Response{}
	left := e
	why := unconnected
	if conn != nil {
		left, why = b.settleStatic(lasting, req.Storage, conn, name, e)
	}
	if left != nil && !force {
		return nil, fmt.Errorf("static role %q is marked as deleted, but what it made is not all removed yet; that goes on by itself until it is done, and force=true forgets it: %w", name, why)
	}
	if left != nil {
		if err := b.forgetStatic(lasting, req.Storage, name); err != nil {
			return nil, err
		}
		for _, c := range left.State.Copies {
			resp.AddWarning(fmt.Sprintf("A copy of a credential may be left in %s (%s)", c.secretPlace, why))
		}
		for _, k := range left.State.all() {
			resp.AddWarning(fmt.Sprintf("%s %s may be left at %s; it ends by itself at %s (%s)", k.Type, k.ID, k.Host, rfc3339(k.Expires), why))
		}
	}
	b.event(ctx, "static-role-delete", req.Path, "name", name)
	return resp, nil
}
