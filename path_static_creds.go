// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/credential"
)

func pathStaticCreds() *framework.Path {
	return &framework.Path{
		Pattern:      "static-creds/" + framework.GenericNameRegex(keyName),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "databricks", OperationSuffix: "static-credentials"},
		Fields:       map[string]*framework.FieldSchema{keyName: {Type: framework.TypeString, Description: "Name of the static role.", Required: true}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: readOperation((*backend).readStaticCreds, "Read the current credential of a static role.", staticCredsFields),
		},
		HelpSynopsis:    "The current credential of a static role.",
		HelpDescription: strings.TrimSpace(staticHelp),
	}
}

func pathRotateRole() *framework.Path {
	return &framework.Path{
		Pattern:      "rotate-role/" + framework.GenericNameRegex(keyName),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "databricks", OperationVerb: "rotate", OperationSuffix: "static-role"},
		Fields:       map[string]*framework.FieldSchema{keyName: {Type: framework.TypeString, Description: "Name of the static role.", Required: true}, keyEndOldest: endOldestField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: writeOperation((*backend).handleRotateRole, "Replace the credential of a static role now.",
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
	fields[keyLastRotation+timeSuffix] = rotationTimeFields[keyLastRotation+timeSuffix]
	return fields
}()

// readStaticCreds reads from memory where it can, and makes no call.
func (b *backend) readStaticCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	e, err := b.static(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if err := e.usable(name); err != nil {
		return nil, err
	}
	answer := maps.Clone(e.State.Answer)
	answer[e.State.Field] = e.State.Secret.Reveal()
	answer[keyTTL] = e.ttl(b.now())
	answer[keyRotationPeriod] = e.Period
	answer[keyLastRotation], answer[keyLastRotation+timeSuffix] = timeOrNull(e.State.Last), timeOrNull(e.State.Last)
	if e.Cron != "" {
		answer[keyRotationSchedule] = e.Cron
	}
	resp := &logical.Response{Data: answer}
	e.addEndWarning(resp, b.now())
	return resp, nil
}

func (b *backend) handleRotateRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	e, unlock, err := b.lockStatic(ctx, req.Storage, name)
	defer unlock()
	if err == nil {
		err = e.usable(name)
	}
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	it := &staticItem{b: b, req: req, name: name, conn: conn, e: e, known: conn.known(), byHand: true, endOldest: data.Get(keyEndOldest).(bool)}
	if err := it.rotate(ctx); err != nil {
		return nil, err
	}
	pending := it.followUp(context.WithoutCancel(ctx))
	return it.changed("The credential was replaced", pending), nil
}
