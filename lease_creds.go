// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"time"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// lease is what is kept with a Vault lease: all that renewing and revoking need, and no secret.
type lease struct {
	origin
	CredentialType string `json:"credential_type"`
	ID             string `json:"id"`   // what the credential type revokes by
	Role           string `json:"role"` // for renewals and messages; revoking never needs it

	ServicePrincipalID string `json:"service_principal_id,omitempty"` // whose secret it is

	TTL     int64     `json:"ttl"`     // seconds, as decided when minted
	Expires time.Time `json:"expires"` // the latest that a renewal may promise
	Dead    time.Time `json:"dead"`    // from here on there is nothing to revoke; later than Expires by what the create took

	Delivered *writtenSecret `json:"delivered,omitempty"` // the secret that holds the credential, if any
}

// internalData is the lease in the form that Vault keeps.
func (l *lease) internalData() (map[string]any, error) {
	data := map[string]any{}
	return data, decodeMap(l, &data)
}

// leaseOf is the reverse of internalData, after Vault has stored it.
func leaseOf(secret *logical.Secret) (*lease, error) {
	l := new(lease)
	if err := decodeMap(secret.InternalData, l); err != nil {
		return nil, fmt.Errorf("the lease's internal data cannot be read: %w", err)
	}
	if l.CredentialType == "" || l.ID == "" || l.Expires.IsZero() || l.Dead.IsZero() {
		return nil, fmt.Errorf("the lease's internal data lacks credential_type, id, expires or dead")
	}
	return l, nil
}

// credentialSecret is the lease of every credential type.
func (b *backend) credentialSecret() *framework.Secret {
	return &framework.Secret{
		Type:   secretTypeCredential,
		Fields: credsResponseFields,
		Renew:  b.renew,
		Revoke: b.revoke,
	}
}

// mint is the life of one credential up to its lease: decide the terms, write the intent down, create, settle the intent,
// hand over. Whatever fails in between leaves either nothing at Databricks or an intent for the rollback.
func (b *backend) mint(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	roleName := data.Get(keyRole).(string)
	role, err := b.role(ctx, req.Storage, roleName)
	if err != nil {
		return nil, err
	}
	if role == nil {
		return nil, badField(keyRole, "there is no role %q; list them at roles/", roleName)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := conn.fits(role); err != nil {
		return nil, err
	}
	t, o, err := b.decideOrder(req, data, conn, roleName, role)
	if err != nil {
		return nil, err
	}
	in, err := b.newIntent(ctx, conn)
	if err != nil {
		return nil, err
	}
	in.Credential = &credentialIntent{Type: role.CredentialType, Role: roleName}
	needs := credentialTypes[role.CredentialType].needs()
	if needs.endsByItself && role.named() {
		// The token is made through a secret, of which a service principal can't have many.
		lane := fmt.Sprint(role.ServicePrincipalID, " ", rand.IntN(stepSecretsAtOnce))
		unlock, err := b.stepSecretLocks.Lock(ctx, lane)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	deliver, err := deliveryOf(req, data)
	if err != nil {
		return nil, err
	}
	if deliver != nil {
		unlock, err := b.secretLocks.Lock(ctx, deliver.folded())
		if err != nil {
			return nil, err
		}
		defer unlock()
		if deliver.Before, err = secretUpdated(ctx, conn, deliver.secretPlace); err != nil {
			return nil, explainSecrets(err, deliver.Scope, permissionRead)
		}
		in.Secret = deliver
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	// From here on the caller's cancellation must not come between the create and its record.
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), mintBudget)
	defer cancel()
	if role.named() && role.CredentialType != credentialOBO {
		if err := b.tellApart(lasting, req.Storage, role, &in, &o); err != nil {
			return nil, err
		}
	}
	in.Started = b.now().UTC()
	until := in.Started.Add(o.lifetime + mintBudget)
	// What doesn't end by itself, as a copy in a scope, is to be undone even later.
	if !needs.lasting && in.Secret == nil || until.After(in.Expires) {
		in.Expires = until
	}
	o.marker = marker{mountID: b.mountID, nonce: in.Nonce, until: until}
	u, err := b.undertake(lasting, req.Storage, in)
	if err != nil {
		return nil, err
	}
	defer u.end(lasting)
	l := &lease{origin: in.origin, CredentialType: role.CredentialType, Role: roleName}
	token, err := b.create(lasting, conn, u, l, o)
	if err != nil {
		return nil, err
	}
	if needs.endsByItself {
		t.endByItself(token.lifetime)
	} else if err := t.grant(token, o.lifetime, l.Expires.Sub(b.now())); err != nil {
		return nil, err
	}
	l.TTL = int64(t.ttl / time.Second)
	internal, err := l.internalData()
	if err != nil {
		return nil, err
	}

	switch {
	case token.twin:
		err = u.keep(lasting, cmp.Or(token.keep, token.id))
	default:
		err = u.settle(lasting)
	}
	if err != nil {
		return nil, fmt.Errorf("a credential was made but could not be accounted for, so it is removed again; try again: %w", err)
	}
	b.event(lasting, "creds-create", req.Path, "role", roleName, "credential_type", role.CredentialType, "id", token.id, "expiry_time", rfc3339(l.Expires))
	resp := b.Secret(secretTypeCredential).Response(token.data, internal)
	resp.Secret.TTL, resp.Secret.MaxTTL = t.ttl, t.maxTTL
	resp.Secret.Renewable = !needs.endsByItself
	resp.Warnings = t.warnings
	if err := u.handOver(ctx); err != nil {
		return nil, err
	}
	return resp, nil
}

// create makes the credential of an undertaking, delivers it where that was asked for, and completes the lease.
func (b *backend) create(ctx context.Context, conn *connection, u *undertaking, l *lease, o order) (*minted, error) {
	credential := credentialTypes[l.CredentialType]
	start := b.now()
	token, err := credential.mint(ctx, conn, o)
	if err != nil {
		u.failed(ctx, err)
		return nil, err
	}
	l.ID, l.ServicePrincipalID = token.id, token.servicePrincipalID
	l.Expires, l.Dead = start.Add(token.lifetime), b.now().Add(token.lifetime)
	if token.lifetime <= 0 {
		u.intent.Expires = start.Add(maxLifetime).UTC() // it takes more than waiting
	}
	deliver := u.intent.Secret
	u.twin = token.twin
	u.undo = func(ctx context.Context) error { return credential.revoke(ctx, conn, reachOwn, l) }
	if deliver == nil {
		return token, nil
	}
	value := secretValue{text: client.Secret(token.data[token.secret].(string))}
	err = value.put(ctx, conn, deliver.secretPlace)
	if err != nil && hadNoEffect(err) {
		return nil, undelivered(deliver, err)
	}
	u.undo = func(ctx context.Context) error {
		if err := credential.revoke(ctx, conn, reachOwn, l); err != nil {
			return err
		}
		if l.Delivered != nil {
			return b.removeWritten(ctx, conn, l.Delivered)
		}
		return b.removeAtOnce(ctx, conn, deliver)
	}
	if err == nil {
		l.Delivered, err = stamped(ctx, conn, deliver)
	}
	if err == nil {
		err = b.supersede(ctx, u.storage, conn, deliver.secretPlace)
	}
	if err != nil {
		return nil, undelivered(deliver, err)
	}
	delete(token.data, token.secret)
	token.data[keyDeliverScope], token.data[keyDeliverKey] = deliver.Scope, deliver.Key
	return token, nil
}

func undelivered(deliver *secretIntent, err error) error {
	return fmt.Errorf("the credential could not be delivered to %s, so it is revoked: %w", deliver.secretPlace, err)
}

// decideOrder turns the role and what the caller asked for into terms and an order, without any call.
func (b *backend) decideOrder(req *logical.Request, data *framework.FieldData, conn *connection, roleName string, role *roleEntry) (terms, order, error) {
	asked, err := askedTTL(data)
	if err != nil {
		return terms{}, order{}, err
	}
	t, err := decideTerms(b.System(), conn.config, role, asked)
	if err != nil {
		return terms{}, order{}, err
	}
	scopes, err := narrowScopes(role.Scopes, data.Get(keyScopes).([]string))
	if err != nil {
		return terms{}, order{}, err
	}
	added := data.Get(keyComment).(string)
	if len(added) > maxCallerComment {
		return terms{}, order{}, badField(keyComment, "is %d bytes long; the limit is %d", len(added), maxCallerComment)
	}
	o := order{role: role, lifetime: t.lifetime(), scopes: scopes}
	needs := credentialTypes[role.CredentialType].needs()
	if needs.endsByItself {
		o.lifetime, t.warnings = stepSecretLife, nil // what ttl was capped to has no bearing on it
	}
	switch {
	case needs.comment || needs.displayName:
		o.text, err = b.commentText(req, roleName, role, added)
	case added != "":
		t.warnings = append(t.warnings, fmt.Sprintf("comment was left out, because Databricks keeps none for %s.", role.CredentialType))
	}
	return t, o, err
}

// deliveryOf reads where the credential is to be put besides the lease; nil for nowhere.
func deliveryOf(req *logical.Request, data *framework.FieldData) (*secretIntent, error) {
	place := secretPlace{Scope: data.Get(keyDeliverScope).(string), Key: data.Get(keyDeliverKey).(string)}
	switch {
	case place == secretPlace{}:
		return nil, nil
	case req.Operation != logical.UpdateOperation:
		// Who may only read must not write secrets.
		return nil, badField(keyDeliverScope, "can't be used with a read; write to creds/<role> instead")
	case place.Scope == "":
		return nil, badField(keyDeliverScope, "is missing; %s needs it", keyDeliverKey)
	case place.Key == "":
		return nil, badField(keyDeliverKey, "is missing; %s needs it", keyDeliverScope)
	}
	if err := checkName(keyDeliverScope, place.Scope); err != nil {
		return nil, err
	}
	return &secretIntent{secretPlace: place}, checkName(keyDeliverKey, place.Key)
}

// renew extends a lease without any call: the credential itself can't be extended.
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
		return nil, badField(keyRole, "%q was deleted, so its leases can't be renewed; this one goes on until it ends", l.Role)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	t, err := renewTerms(b.System(), conn.config, role, req.Secret, l, b.now())
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Secret: req.Secret, Warnings: t.warnings}
	resp.Secret.TTL, resp.Secret.MaxTTL = t.ttl, t.maxTTL
	return resp, nil
}

// revoke ends a lease's credential. It needs nothing but the lease and a connection.
func (b *backend) revoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := leaseOf(req.Secret)
	if err != nil {
		return nil, err
	}
	credential, ok := credentialTypes[l.CredentialType]
	if !ok {
		return nil, fmt.Errorf("the lease has the unknown credential type %q; was it made by a newer version of the plugin?", l.CredentialType)
	}
	needs := credential.needs()
	ended := needs.endsByItself || !needs.lasting && b.now().After(l.Dead)
	if ended && l.Delivered == nil {
		return &logical.Response{}, nil
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	how, err := conn.reaches(ctx, l.origin)
	if err != nil {
		return nil, err
	}
	if how == reachNone {
		now, err := conn.origin(ctx)
		if err != nil {
			return nil, err
		}
		stays := ""
		switch {
		case l.Delivered != nil:
			stays = fmt.Sprintf(", but its copy in %s stays", l.Delivered.secretPlace)
		case needs.lasting:
			stays = ", but its service principal stays"
		}
		return nil, badField(keyHost, "the lease was made at %s, but the mount is now connected to %s; connect it to the first again. The credential ends by itself at %s%s", l.place(), now.place(), rfc3339(l.Expires), stays)
	}
	if !ended {
		if err := credential.revoke(ctx, conn, how, l); err != nil {
			return nil, fmt.Errorf("revoke %s %s of role %q: %w", l.CredentialType, l.ID, l.Role, err)
		}
	}
	if l.Delivered != nil {
		if err := b.endWritten(ctx, conn, l.Delivered); err != nil {
			return nil, fmt.Errorf("the credential was revoked, but not its copy in %s: %w", l.Delivered.secretPlace, err)
		}
	}
	b.event(ctx, "creds-revoke", req.Path, "role", l.Role, "credential_type", l.CredentialType, "id", l.ID)
	return &logical.Response{}, nil
}
