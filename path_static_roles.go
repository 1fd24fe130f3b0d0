// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/credential"
)

const (
	keyGrace          = "rotation_grace_period"
	keyLifetime       = "lifetime"
	keyPendingError   = "pending_error"
	keyPendingAttempt = "next_pending_attempt"
	keyDelivered      = "delivered"
	keyEndOldest      = "end_oldest_grace"
)

func pathStatic() []*framework.Path {
	return []*framework.Path{
		pathNames("static-roles", staticStoragePrefix, "List the static roles, with the credential_type of each, and how its rotations go, in key_info.", staticHelp, (*backend).staticInfo),
		pathStaticRole(), pathStaticCreds(), pathRotateRole(),
	}
}

func pathStaticRole() *framework.Path {
	write := []framework.Response{{Description: "The static role as stored.", Fields: staticResponseFields}}
	return &framework.Path{
		Pattern:      "static-roles/" + framework.GenericNameRegex(keyName),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "databricks", OperationSuffix: "static-role"},
		Fields:       staticFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: writeOperation((*backend).writeStatic, "Create a static role, and its first credential.", write,
				framework.RequestExample{
					Description: "A secret of a service principal, replaced every week, with a day of overlap.",
					Data:        map[string]any{keyCredentialType: credential.OAuthSecret, keyApplicationID: "6f5ccf28-d83a-4957-9bfb-5bbfac551410", keyRotationPeriod: "168h", keyGrace: "24h"},
				}),
			logical.UpdateOperation: writeOperation((*backend).writeStatic, "Change a static role; fields that are not named keep their values.", write),
			logical.PatchOperation:  writeOperation((*backend).writeStatic, "Change a static role; null resets a field.", write),
			logical.DeleteOperation: deleteOperation((*backend).deleteStatic, "Delete a static role, and what it made at Databricks.", keyForce),
			logical.ReadOperation:   readOperation((*backend).readStaticRole, "Read a static role, and how its rotations go.", staticResponseFields),
		},
		ExistenceCheck: func(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
			entry, err := req.Storage.Get(ctx, staticStoragePrefix+data.Get(keyName).(string))
			return entry != nil, err
		},
		HelpSynopsis:    "One shared credential that is rotated.",
		HelpDescription: strings.TrimSpace(staticHelp),
	}
}

var staticFields = withSchedule(map[string]*framework.FieldSchema{
	keyName:               {Type: framework.TypeString, Description: "Name of the static role.", Required: true},
	keyCredentialType:     credential.Field(credential.Names(credential.Static)),
	keyServicePrincipalID: {Type: framework.TypeString, Description: "Numeric id of the service principal whose credential it is. It or application_id is needed for obo_token and oauth_secret."},
	keyApplicationID:      {Type: framework.TypeString, Description: "Application id of that service principal, instead."},
	keyScopes:             {Type: framework.TypeCommaStringSlice, Description: "API scopes of the credential. Empty leaves them to Databricks. A token or OAuth secret that Databricks makes with more is removed again; one of which it answers none is noted in Vault's log."},
	keyComment:            {Type: framework.TypeString, Description: "Template of the comment, as in roles. Of pat and obo_token."},
	keyGrace: {
		Type:        framework.TypeDurationSecond,
		Description: "How long the previous credential lives on after a rotation. An hour unless set, or the period if that is shorter; 0 removes it at once.",
	},
	keyLifetime: {
		Type:        framework.TypeDurationSecond,
		Description: "How long each credential lives at Databricks. 0 means as long as the schedule needs, and 730 days without one.",
	},
	keyDeliverScope: {Type: framework.TypeString, Description: "Secret scope in which the current secret part is kept, too, as a text. Needs deliver_key."},
	keyDeliverKey:   {Type: framework.TypeString, Description: "Key in deliver_scope. It may have slashes. What is there is overwritten, in whatever case its key is written."},
	keyDeliverUC:    {Type: framework.TypeString, Description: "Secret in Unity Catalog, <catalog>.<schema>.<name>, in which the current secret part is kept, instead of deliver_scope and deliver_key. What is there is overwritten."},
	keyForce: {
		Type:        framework.TypeBool,
		Description: "On a delete: forget the role even if what it made can't be removed at Databricks.",
		Query:       true,
	},
	keyEndOldest: endOldestField,
})

// endOldestField is the field of requests that rotate a static role.
var endOldestField = &framework.FieldSchema{
	Type:        framework.TypeBool,
	Description: "Where the rotation is refused because too many replaced credentials are in their grace: remove the oldest ones of the role at once.",
}

var staticStoredFields = storedFields(staticFields, keyName, keyForce, keyEndOldest)

var staticResponseFields = withRotation(staticStoredFields, map[string]*framework.FieldSchema{
	keyCredentialID:   {Type: framework.TypeString, Required: true, Description: "Id of the current credential."},
	keyExpiryTime:     {Type: framework.TypeString, Required: true, Description: "When it ends at Databricks if it is not replaced, RFC 3339."},
	keyRetiredIDs:     {Type: framework.TypeStringSlice, Required: true, Description: "Ids of the previous ones that are still alive."},
	keyDelivered:      {Type: framework.TypeBool, Required: true, Description: "Whether deliver_key or deliver_uc has the current secret part; false where there is none."},
	keyPendingError:   {Type: framework.TypeString, Required: true, Description: "What could not be delivered or removed yet after a rotation, and why; empty for nothing."},
	keyPendingAttempt: {Type: framework.TypeString, Required: true, Description: "When that is tried again, RFC 3339; null for never."},
})

func (b *backend) staticResponse(e *staticEntry) *logical.Response {
	data := storedData(e.staticRole, staticStoredFields)
	data[keyCredentialID] = e.State.Current.ID
	data[keyExpiryTime] = timeOrNull(e.State.Current.Expires)
	data[keyDelivered] = e.delivery() != nil && !e.undelivered()
	ids := []string{}
	for _, old := range e.State.Retired {
		if b.now().Before(old.Expires) {
			ids = append(ids, old.ID)
		}
	}
	data[keyRetiredIDs] = ids
	e.rotationView().addTo(data)
	resp := &logical.Response{Data: data}
	e.addEndWarning(resp, b.now())
	if e.State.Deleting {
		resp.AddWarning("The static role is being deleted; what it made could not be removed at Databricks yet.")
	}
	return resp
}

// staticInfo returns what a list shows of a static role, nil when there is none any more.
func (b *backend) staticInfo(ctx context.Context, s logical.Storage, name string) (map[string]any, error) {
	key := staticStoragePrefix + name
	e, err := b.statics.get(key, func() (*staticEntry, bool, error) {
		e, err := readStatic(ctx, s, key)
		return e, false, err // a list of all is no reason to keep all in memory
	})
	if err != nil || e == nil {
		return nil, err
	}
	all := b.staticResponse(e).Data
	info := make(map[string]any)
	for _, field := range []string{keyCredentialType, keyExpiryTime, keyLastRotation, keyNextRotation, keyRotationFailures} {
		info[field] = all[field]
	}
	return info, nil
}

func (b *backend) readStaticRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	e, err := b.static(ctx, req.Storage, data.Get(keyName).(string))
	if err != nil || e == nil {
		return nil, err
	}
	resp := b.staticResponse(e)
	e.mints().addTemplateWarning(resp, staticSamples(data.Get(keyName).(string), req.MountPoint))
	return resp, nil
}

// addEndWarning warns of a credential that has ended.
func (e *staticEntry) addEndWarning(resp *logical.Response, now time.Time) {
	if now.After(e.State.Current.Expires) {
		resp.AddWarning(fmt.Sprintf("The credential ended at Databricks at %s; replace it by rotate-role.", rfc3339(e.State.Current.Expires)))
	}
}

const staticHelp = `
A static role has one credential at a time, which all who may read static-creds/<name>
share, and which Vault replaces: every rotation_period, by a cron rotation_schedule in
UTC, or when rotate-role/<name> is written. The previous one lives on for
rotation_grace_period, so that consumers have time to read the new one. With
deliver_scope and deliver_key, the current one is kept in a secret scope, too, or with
deliver_uc in a secret in Unity Catalog.

  vault write databricks/static-roles/dash credential_type=oauth_secret \
      application_id=6f5ccf28-… rotation_period=168h rotation_grace_period=24h
  vault read databricks/static-creds/dash
  vault write -f databricks/rotate-role/dash
  vault list databricks/static-roles
  vault delete databricks/static-roles/dash

Reading makes no call and no lease. ttl tells when to read again. Deleting the role
removes its credentials at Databricks. A restart of Vault rotates nothing.

A rotation is refused while too many replaced credentials are in their grace: 50 tokens,
3 OAuth secrets. end_oldest_grace=true removes the oldest ones to make room:

  vault write databricks/rotate-role/dash end_oldest_grace=true
`

// writeStatic creates a static role with its first credential, or changes one. Where the change needs another credential, it is
// rotated at once.
func (b *backend) writeStatic(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	old, unlock, err := b.lockStatic(ctx, req.Storage, name)
	defer unlock()
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
	role, err := mergeStatic(req, data, old, b.now())
	if err != nil {
		return nil, err
	}
	if ref := role.delivery(); ref != nil {
		// No other role takes the place while it is checked.
		unlock, err := b.deliveryLocks.Lock(ctx, ref.canonical())
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	it := &staticItem{b: b, req: req, name: name, conn: conn, e: old, byHand: true, endOldest: data.Get(keyEndOldest).(bool)}
	if err := it.resolve(ctx, role); err != nil {
		return nil, err
	}
	switch {
	case old == nil:
		err = it.create(ctx, role)
	case !role.sameCredentials(&old.staticRole):
		if err = it.makeRoom(ctx, role); err == nil {
			err = it.create(ctx, role)
		}
	default:
		e := old.clone()
		e.staticRole = *role
		if role.Schedule != old.Schedule {
			e.State.reschedule(role.Schedule, b.now())
		}
		it.e, err = e, b.saveStatic(ctx, req.Storage, name, e)
	}
	if err != nil {
		return nil, err
	}
	pending := it.followUp(context.WithoutCancel(ctx))
	if pending != nil && old == nil {
		return nil, it.abandon(context.WithoutCancel(ctx), pending)
	}
	b.reportedTemplates.Delete(staticStoragePrefix + name)
	b.event("static-role-write", req.Path, "name", name, "credential_type", role.CredentialType)
	return it.changed("The static role was stored", pending), nil
}

// changed returns the answer of a write. Done says what was done, and pending why something is left to do after it.
func (i *staticItem) changed(done string, pending error) *logical.Response {
	e := i.e
	resp := i.b.staticResponse(e)
	if pending != nil {
		resp.AddWarning(fmt.Sprintf("%s, but something is left to do, which is tried again at %s: %s", done, rfc3339(e.State.PendingRetry), pending))
	}
	for _, warning := range credential.Lookup(e.CredentialType).Warnings(i.known, e.mints().spec()) {
		resp.AddWarning(warning)
	}
	if i.templateFailed != "" {
		resp.AddWarning(i.templateFailed)
	} else {
		e.mints().addTemplateWarning(resp, staticSamples(i.name, i.req.MountPoint))
	}
	if !e.Automatic() {
		resp.AddWarning(fmt.Sprintf("The role has no schedule, so its credential ends at %s unless rotate-role is written before.", rfc3339(e.State.Current.Expires)))
	}
	return resp
}

// deleteStatic first marks the role as being deleted, so that what can't be removed now is removed later.
func (b *backend) deleteStatic(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	force := data.Get(keyForce).(bool)
	e, unlock, err := b.lockStatic(ctx, req.Storage, name)
	defer unlock()
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
	conn, err := b.endingConnection(ctx, req.Storage)
	if err != nil && !force {
		return nil, err
	}
	why := err
	lasting := context.WithoutCancel(ctx)
	e.State.Deleting = true
	if err := b.saveStatic(lasting, req.Storage, name, e); err != nil {
		return nil, err
	}
	it := &staticItem{b: b, req: req, name: name, conn: conn, e: e}
	if conn != nil {
		why = it.followUp(lasting)
	}
	if it.e == nil {
		return &logical.Response{}, nil
	}
	if !force {
		return nil, fmt.Errorf("static role %q is marked as deleted, but what it made is not all removed yet; that goes on by itself until it is done, and force=true forgets it: %w", name, why)
	}
	if err := b.forgetStatic(lasting, req.Storage, name); err != nil {
		return nil, err
	}
	resp := &logical.Response{}
	for _, c := range it.e.State.Copies {
		resp.AddWarning(fmt.Sprintf("A copy of a credential may be left in %s (%s)", c.secretRef, why))
	}
	for _, k := range it.e.State.all() {
		resp.AddWarning(fmt.Sprintf("%s %s may be left at %s; it ends by itself at %s (%s)", k.Type, k.ID, k.Host, rfc3339(k.Expires), why))
	}
	b.event("static-role-delete", req.Path, "name", name)
	return resp, nil
}
