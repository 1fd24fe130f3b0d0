// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/marker"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// credentialLeaseType returns the lease type that all credential types share.
func credentialLeaseType() *framework.Secret {
	return &framework.Secret{
		Type:   secretTypeCredential,
		Fields: credsResponseFields,
		Renew:  on((*backend).renew),
		Revoke: on((*backend).revoke),
	}
}

// mintPlan is what is decided before a credential is created.
type mintPlan struct {
	conn    *connection
	kind    credential.Type
	request credential.Request
	terms   terms
	intent  intent
	lease   *lease
}

// mint creates a credential and returns it as a lease. The write-ahead log has what identifies the credential before the create
// begins, so that after a crash at any point a rollback can find and remove it.
func (b *backend) mint(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	p, err := b.planMint(ctx, req, data)
	if err != nil {
		return nil, err
	}
	unlock, err := b.lockMint(ctx, req.Storage, p)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := b.nameIntent(ctx, req.Storage, p.conn, p.kind, &p.request, &p.intent, false); err != nil {
		return nil, err
	}
	var resp *logical.Response
	err = b.perform(ctx, req.Storage, p.intent, func(ctx context.Context, op *pendingOperation) error {
		token, err := b.create(ctx, op, p)
		if err != nil {
			return err
		}
		left := p.lease.Expires.Sub(b.now())
		if p.kind.Traits().EndsByItself {
			err = p.terms.endByItself(token.Lifetime, left, p.kind.Traits().Plural)
		} else {
			err = p.terms.capTo(token, p.request.Lifetime, left)
		}
		if err != nil {
			return err
		}
		if l := p.lease; l.Delivered != nil {
			l.Record = op.keepRecord(p.conn, p.terms.ttl, l.Delivered, nil)
		}
		resp, err = b.leaseOfCredential(p, token)
		return err
	})
	if err != nil {
		return nil, err
	}
	l := p.lease
	b.credentials.minted(l.CredentialType, l.Dead)
	b.event("creds-create", req.Path, "role", l.Role, "credential_type", l.CredentialType, "id", l.ID, "expiry_time", rfc3339(l.Expires))
	return resp, nil
}

// planMint makes a plan from the role and the request. Its only call to Databricks is the lookup of the engine's identity, if
// that is not known yet.
func (b *backend) planMint(ctx context.Context, req *logical.Request, data *framework.FieldData) (*mintPlan, error) {
	name := data.Get(keyRole).(string)
	role, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if role == nil {
		return nil, badField(keyRole, "there is no role %q; list them at roles/", name)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := conn.fits(role.CredentialType, role.spec()); err != nil {
		return nil, err
	}
	p := &mintPlan{conn: conn, kind: credential.Lookup(role.CredentialType)}
	if err := b.decideMint(req, data, name, role, p); err != nil {
		return nil, err
	}
	deliver, err := deliveryOf(req, data)
	if err == nil && deliver != nil {
		err = conn.delivers(deliver.secretRef)
	}
	if err != nil {
		return nil, err
	}
	if p.intent, err = b.newIntent(ctx, conn); err != nil {
		return nil, err
	}
	if err := role.fitsPlace(name, p.intent.origin); err != nil {
		return nil, err
	}
	p.intent.Credential = &credentialIntent{Type: role.CredentialType, Role: name}
	p.intent.Secret = deliver
	p.lease = &lease{origin: p.intent.origin, CredentialType: role.CredentialType, Role: name, Instance: b.instance}
	return p, nil
}

// decideMint decides the terms of the lease and the request to Databricks, without any call.
func (b *backend) decideMint(req *logical.Request, data *framework.FieldData, name string, role *roleEntry, p *mintPlan) error {
	requested, err := requestedTTL(data)
	if err != nil {
		return err
	}
	if p.terms, err = decideTerms(b.host(), p.conn.config, role, requested); err != nil {
		return err
	}
	p.request = credential.Request{Spec: role.spec(), Lifetime: p.terms.lifetime()}
	if _, sent := data.Raw[keyScopes]; sent && len(data.Get(keyScopes).([]string)) == 0 {
		// Policies let an empty list pass, whatever scopes they allow, so it must not mean all of them.
		return badField(keyScopes, "is empty; send at least one, or leave it out for the role's")
	}
	if p.request.Scopes, err = narrowScopes(role.Scopes, data.Get(keyScopes).([]string)); err != nil {
		return err
	}
	added := data.Get(keyComment).(string)
	if len(added) > maxCallerComment {
		return badField(keyComment, "is %d bytes long; the limit is %d", len(added), maxCallerComment)
	}
	t := p.kind.Traits()
	if _, sent := data.Raw[keyScopes]; sent && t.Database {
		return badField(keyScopes, "has no meaning for credential_type %s; leave it out", role.CredentialType)
	}
	if t.Lifetime > 0 {
		p.request.Lifetime, p.terms.warnings = t.Lifetime, nil // the lease's ttl does not affect it, so neither does capping it
	}
	if t.Database {
		if err := b.decideLife(role, p); err != nil {
			return err
		}
	}
	switch {
	case t.Comment || t.DisplayName:
		var warning string
		if p.request.Text, warning, err = b.commentText(req, name, role, added); warning != "" {
			p.terms.warnings = append(p.terms.warnings, warning)
		}
	case added != "":
		p.terms.warnings = append(p.terms.warnings, fmt.Sprintf("comment was left out, because Databricks stores none for %s.", role.CredentialType))
	}
	return err
}

// lockMint takes the locks of a mint: a slot of its service principal, if the type limits concurrent creates, and the secret
// that the credential is delivered to. It also records when that secret was last written, which requires the lock. On success,
// unlock must be called.
func (b *backend) lockMint(ctx context.Context, s logical.Storage, p *mintPlan) (unlock func(), err error) {
	var held []func()
	release := func() {
		for _, u := range slices.Backward(held) {
			u()
		}
	}
	locked := false
	defer func() {
		if !locked { // after a panic, too
			release()
		}
	}()
	if slots := p.kind.Traits().Slots; slots > 0 && p.request.Named() {
		u, err := b.slotLocks.Lock(ctx, fmt.Sprint(p.request.ServicePrincipalID, " ", rand.IntN(slots)))
		if err != nil {
			return nil, err
		}
		held = append(held, u)
	}
	deliver := p.intent.Secret
	if deliver == nil {
		locked = true
		return release, nil
	}
	u, err := b.lockForWrite(ctx, s, deliver.secretRef)
	if err != nil {
		return nil, err
	}
	held = append(held, u)
	if err := b.checkNotStatic(ctx, s, deliver.deliverField(), deliver.secretRef); err != nil {
		return nil, err
	}
	if _, err := b.prepareWrite(ctx, s, p.conn, deliver); err != nil {
		return nil, err
	}
	locked = true
	return release, nil
}

// nameIntent decides how a new credential can be identified later: by its mark or, if it can't carry one, by a distinct
// lifetime. It also decides when the intent expires. stored is true if a storage entry, not a lease, will hold the credential.
func (b *backend) nameIntent(ctx context.Context, s logical.Storage, conn *connection, kind credential.Type, r *credential.Request, in *intent, stored bool) error {
	t := kind.Traits()
	if t.Textless && r.Named() {
		if err := b.makeDistinct(ctx, s, r, in); err != nil {
			return err
		}
	}
	in.start(b.now(), conn)
	until := in.Started.Add(r.Lifetime + mintBudget)
	// What has no expiry at Databricks, such as a copy in a scope, is undone for longer.
	if !t.Lasting && in.Secret == nil || until.After(in.Expires) {
		in.Expires = until
	}
	r.Mark = marker.Mark{MountID: b.mountID, Nonce: in.Nonce, Until: until, Stored: stored}
	return nil
}

// createCredential creates the credential of an operation, and fills in the fields that all answers have. One that is unfit is left to the
// undoing of the operation.
func (b *backend) createCredential(ctx context.Context, op *pendingOperation, conn *connection, kind credential.Type, r credential.Request) (*credential.Credential, error) {
	token, err := kind.Mint(ctx, conn, r)
	if err != nil {
		return nil, err
	}
	op.duplicate, op.keep = token.Duplicate, cmp.Or(token.Keep, token.ID)
	ref := credential.Ref{ID: token.ID, ServicePrincipalID: token.ServicePrincipalID}
	op.undo = func(ctx context.Context) error { return kind.Revoke(ctx, conn, credential.AccessOwn, ref) }
	if token.Unfit != nil {
		return nil, logical.CodedError(http.StatusBadGateway, token.Unfit.Error())
	}
	if token.Expires.IsZero() {
		token.Expires = b.now().UTC().Add(token.Lifetime)
	}
	if !kind.Traits().Database {
		token.Data[keyHost] = conn.config.Host
	}
	token.Data[keyExpiryTime] = rfc3339(token.Expires)
	return token, nil
}

// create creates the credential of a plan, delivers it if requested, and completes the lease. The caller holds the locks of
// lockMint.
func (b *backend) create(ctx context.Context, op *pendingOperation, p *mintPlan) (*credential.Credential, error) {
	start := b.now()
	token, err := b.createCredential(ctx, op, p.conn, p.kind, p.request)
	if err != nil && p.kind.Traits().Lifetime == 0 {
		err = explainLifetime(err, p.request.Lifetime, fmt.Sprintf("lower max_ttl of role %q (a credential lives a minute longer)", p.lease.Role))
	}
	if err != nil {
		return nil, err
	}
	if token.Warning != "" {
		p.terms.warnings = append(p.terms.warnings, token.Warning)
	}
	l := p.lease
	l.ID, l.ServicePrincipalID = token.ID, token.ServicePrincipalID
	// Databricks' lifetime begins at some time during the create: the lease must end by the earliest possible end, and the
	// credential may be alive until the latest.
	l.Expires, l.Dead = start.Add(token.Lifetime), b.now().Add(token.Lifetime)
	if token.Lifetime <= 0 {
		op.intent.Expires = start.Add(maxLifetime).UTC() // it never expires, so waiting doesn't end it
	}
	deliver := op.intent.Secret
	if deliver == nil {
		return token, nil
	}
	if l.Delivered, err = b.storeSecret(ctx, op, p.conn, secretValue{text: token.SecretPart()}); err != nil {
		return nil, fmt.Errorf("the credential could not be delivered to %s, so it is revoked: %w", deliver.secretRef, err)
	}
	p.terms.warnings = append(p.terms.warnings, l.Delivered.warnings(p.conn)...)
	delete(token.Data, token.Secret)
	if deliver.UC != "" {
		token.Data[keyDeliverUC] = deliver.UC
	} else {
		token.Data[keyDeliverScope], token.Data[keyDeliverKey] = deliver.Scope, deliver.Key
	}
	return token, nil
}

// leaseOfCredential returns the response with the lease. The plan's terms must be final.
func (b *backend) leaseOfCredential(p *mintPlan, token *credential.Credential) (*logical.Response, error) {
	p.lease.TTL = int64(p.terms.ttl / time.Second)
	internal, err := p.lease.internalData()
	if err != nil {
		return nil, err
	}
	resp := b.Secret(secretTypeCredential).Response(token.Data, nil)
	maps.Copy(internal, resp.Secret.InternalData)
	resp.Secret.InternalData = internal
	resp.Secret.TTL, resp.Secret.MaxTTL = p.terms.ttl, p.terms.maxTTL
	resp.Secret.Renewable = !p.kind.Traits().EndsByItself
	resp.Warnings = p.terms.warnings
	return resp, nil
}

// renew extends a lease, up to its credential's end. It makes no call, since Databricks can't extend a credential.
func (b *backend) renew(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := leaseOf(req.Secret)
	if err != nil {
		return nil, err
	}
	role, err := b.role(ctx, req.Storage, l.Role)
	if err != nil {
		return nil, err
	}
	if role == nil {
		return nil, badField(keyRole, "%q was deleted, so its leases can't be renewed; this one stays valid until it ends", l.Role)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	t, err := renewTerms(b.host(), conn.config, role, req.Secret, l, b.now())
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Secret: req.Secret, Warnings: t.warnings}
	resp.Secret.TTL, resp.Secret.MaxTTL = t.ttl, t.maxTTL
	if l.Delivered != nil {
		if l.Record, err = b.renewRecord(ctx, req.Storage, conn, l.Record, t.ttl, intent{origin: l.origin, Written: l.Delivered, Delivered: true}); err != nil {
			return nil, err
		}
		resp.Secret.InternalData["record"] = l.Record
	}
	return resp, nil
}

// revoke ends a lease's credential, and deletes the secret that it was delivered to. It does not need the role, which may have
// been deleted. If it fails, Vault tries again.
func (b *backend) revoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (_ *logical.Response, err error) {
	l, err := leaseOf(req.Secret)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.credentials.revokeFailed(l.CredentialType, b.now(), err)
		}
	}()
	kind := credential.Lookup(l.CredentialType)
	if kind == nil {
		return nil, fmt.Errorf("the lease has the unknown credential type %q; was it made by a newer version of the plugin?", l.CredentialType)
	}
	t := kind.Traits()
	// Nothing has to be revoked if Databricks can't do so or the credential has expired, but a delivered copy does not expire.
	ended := t.EndsByItself || !t.Lasting && b.expired(ctx, req.Storage, l.Dead)
	if ended && l.Delivered == nil {
		return nil, nil
	}
	conn, err := b.endingConnection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	access, err := conn.accessTo(ctx, l.origin)
	if err != nil {
		return nil, err
	}
	if access == credential.AccessNone && l.Delivered == nil && !t.Lasting && b.now().After(l.Dead) {
		return nil, nil // the clock of that workspace can't be asked
	}
	if access == credential.AccessNone {
		now, err := conn.origin(ctx)
		if err != nil {
			return nil, err
		}
		stays := ""
		switch {
		case l.Delivered != nil:
			stays = fmt.Sprintf(", but its copy in %s stays", l.Delivered.secretRef)
		case t.Lasting:
			stays = ", but its service principal stays"
		}
		return nil, badField(keyHost, "the lease was made at %s, but the mount is now connected to %s; connect it to the first again. The credential expires at %s%s", l.describe(), now.describe(), rfc3339(l.Expires), stays)
	}
	if !ended {
		err := kind.Revoke(ctx, conn, access, credential.Ref{ID: l.ID, ServicePrincipalID: l.ServicePrincipalID})
		switch {
		case err != nil && (t.Lasting || !b.now().After(l.Dead.Add(clockFar))):
			return nil, fmt.Errorf("revoke %s %s of role %q: %w", l.CredentialType, l.ID, l.Role, err)
		case err != nil:
			b.Logger().Warn("a credential that ended by itself long ago could not be revoked", "credential_type", l.CredentialType, "id", l.ID, "expired", rfc3339(l.Dead), "error", err)
		}
	}
	if l.Delivered != nil {
		if err := b.removeWritten(ctx, conn, l.Delivered); err != nil {
			return nil, fmt.Errorf("the credential was revoked, but not its copy in %s: %w", l.Delivered.secretRef, err)
		}
		b.closeRecord(ctx, req.Storage, l.Record)
	}
	b.credentials.revoked(l.CredentialType, l.Dead, l.Instance == b.instance)
	b.event("creds-revoke", req.Path, "role", l.Role, "credential_type", l.CredentialType, "id", l.ID)
	return nil, nil
}
