// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathStaticCreds() *framework.Path {
	return &framework.Path{
		Pattern:      "static-creds/" + framework.GenericNameRegex(keyName),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "databricks", OperationSuffix: "static-credentials"},
		Fields:       map[string]*framework.FieldSchema{keyName: {Type: framework.TypeString, Description: "Name of the static role.", Required: true}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readStaticCreds,
				Summary:   "Read the current credential of a static role.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: staticCredsFields}}},
			},
		},
		HelpSynopsis:    "The current credential of a static role.",
		HelpDescription: strings.TrimSpace(staticHelp),
	}
}

func (b *backend) pathRotateRole() *framework.Path {
	return &framework.Path{
		Pattern:      "rotate-role/" + framework.GenericNameRegex(keyName),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "databricks", OperationVerb: "rotate", OperationSuffix: "static-role"},
		Fields:       map[string]*framework.FieldSchema{keyName: {Type: framework.TypeString, Description: "Name of the static role.", Required: true}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.writeOperation(b.handleRotateRole, "Replace the credential of a static role now.",
				[]framework.Response{{Description: "Replaced.", Fields: staticResponseFields}}, framework.RequestExample{Description: "Replace it now.", Data: map[string]any{}}),
		},
		HelpSynopsis:    "Replace the credential of a static role now.",
		HelpDescription: strings.TrimSpace(staticHelp),
	}
}

var staticCredsFields = func() map[string]*framework.FieldSchema {
	fields := credentialFields(credential.Names(credential.Static))
	fields[keyExpiryTime].Description = "When the credential ends at Databricks if it is not replaced, RFC 3339."
	fields[keyTTL] = &framework.FieldSchema{Type: framework.TypeInt64, Required: true, Description: "Seconds until it is to be replaced, or, without a schedule, until it ends."}
	fields[keyRotationPeriod] = &framework.FieldSchema{Type: framework.TypeInt64, Required: true, Description: "Seconds from one rotation to the next; 0 for none."}
	fields[keyRotationSchedule] = &framework.FieldSchema{Type: framework.TypeString, Description: "Cron schedule in UTC, where set."}
	fields[keyLastRotation] = &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "When the credential was last replaced, RFC 3339."}
	return fields
}()

// readStaticCreds answers from memory where it can, and makes no call.
func (b *backend) readStaticCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	e, err := b.static(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, badField(keyName, "there is no static role %q; list them at static-roles/", name)
	}
	if e.State.Deleting {
		return nil, badField(keyName, "static role %q is being deleted", name)
	}
	answer := maps.Clone(e.State.Answer)
	answer[e.State.Field] = e.State.Secret.Reveal()
	answer[keyTTL] = e.ttl(b.now())
	answer[keyRotationPeriod] = e.Period
	answer[keyLastRotation] = rfc3339(e.State.Last)
	if e.Cron != "" {
		answer[keyRotationSchedule] = e.Cron
	}
	resp := &logical.Response{Data: answer}
	e.addEndWarning(resp, b.now())
	return resp, nil
}

func (b *backend) handleRotateRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	unlock, err := b.rotationLocks.Lock(ctx, staticStoragePrefix+name)
	if err != nil {
		return nil, err
	}
	defer unlock()
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
