// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	keyOperatorCreated = "hand_made_credentials"
	keyCredentialID    = "credential_id"
	keyRetiredIDs      = "retired_ids"
)

func pathRotateRoot() []*framework.Path {
	return []*framework.Path{{
		Pattern: "config/rotate-root",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationVerb:   "rotate",
			OperationSuffix: "root-credentials",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: writeOperation((*backend).handleRotateRoot, "Replace the engine's own credential.",
				[]framework.Response{{Description: "Replaced.", Fields: rootResponseFields}}, framework.RequestExample{Description: "Replace it now.", Data: map[string]any{}}),
		},
		HelpSynopsis:    "Replace the engine's own credential by one that only Vault knows.",
		HelpDescription: strings.TrimSpace(rotateRootHelp),
	}}
}

// rootResponseFields are those of the config's answer that a rotation changes.
var rootResponseFields = func() map[string]*framework.FieldSchema {
	fields := make(map[string]*framework.FieldSchema)
	for _, field := range []string{keyAuthType, keyCredentialID, keyExpiryTime, keyLastRotation, keyLastRotation + timeSuffix, keyNextRotation, keyNextRotation + timeSuffix, keyRetiredIDs, keyOperatorCreated} {
		fields[field] = configResponseFields[field]
	}
	return fields
}()

func (b *backend) handleRotateRoot(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	root, unlock, err := b.lockRoot(ctx, req)
	defer unlock()
	if err != nil {
		return nil, err
	}
	root.byHand = true
	unidentified, err := root.replace(ctx)
	if err != nil {
		return nil, err
	}
	resp := root.config.response()
	maps.DeleteFunc(resp.Data, func(field string, _ any) bool { return rootResponseFields[field] == nil })
	if unidentified != "" {
		resp.AddWarning(unidentified)
	}
	addRootWarnings(resp, req.MountPoint, root.config, b.now(), true)
	return resp, nil
}

var configResponseFields = withRotation(configStoredFields, map[string]*framework.FieldSchema{
	keyPendingError:    {Type: framework.TypeString, Required: true, Description: "Why a credential that was replaced could not be removed yet; empty for nothing."},
	keyPendingAttempt:  {Type: framework.TypeString, Required: true, Description: "When that is tried again, RFC 3339; null for never."},
	keyCredentialID:    {Type: framework.TypeString, Required: true, Description: "Id of the credential, if a rotation created it; else empty."},
	keyExpiryTime:      {Type: framework.TypeString, Required: true, Description: "When that ends at Databricks if it is not replaced, RFC 3339; null where it isn't known."},
	keyRetiredIDs:      {Type: framework.TypeStringSlice, Required: true, Description: "Ids of credentials that were replaced and are about to be removed."},
	keyOperatorCreated: {Type: framework.TypeStringSlice, Required: true, Description: "Ids of credentials that an operator created and that have been replaced, to be deleted by an operator."},
})

// addRotation shows the rotation of the config's credential in an answer.
func (c *configEntry) addRotation(data map[string]any) {
	c.rotationView().addTo(data)
	data[keyCredentialID] = c.Rotation.Credential.ID
	data[keyExpiryTime] = timeOrNull(c.Rotation.Credential.Expires)
	data[keyRetiredIDs] = retiredIDs(c.Rotation.Retired)
	data[keyOperatorCreated] = append([]string{}, c.Rotation.OperatorCreated...)
}

// addRootWarnings warns of what an operator has to do about the engine's own credential. Rotated says that it was replaced just now;
// else it warns only of what is known to be so, or will be soon.
func addRootWarnings(resp *logical.Response, mountPoint string, config *configEntry, now time.Time, rotated bool) {
	r := config.Rotation
	if config.RotationPolicy != "" && !r.Managed && !rotated {
		resp.AddWarning(fmt.Sprintf("rotation_policy %q has no effect: no rotation manager of Vault follows the schedule of this config. After a failure the engine itself tries again after a minute, and then ever later, up to an hour.", config.RotationPolicy))
	}
	for _, id := range r.OperatorCreated {
		if config.AuthType == client.AuthOAuthM2M && !rotated {
			continue // that it was deleted is not seen before the next rotation
		}
		access := fmt.Sprintf("vault delete %stokens/%s", mountPoint, id)
		if config.AuthType == client.AuthOAuthM2M {
			who := ""
			if config.Identity != nil {
				who = config.Identity.ID + " "
			}
			command := "service-principal-secrets-proxy"
			if r.Credential.AccountID != "" {
				command = "account service-principal-secrets"
			}
			access = fmt.Sprintf("databricks %s delete %s%s", command, who, id)
		}
		resp.AddWarning(fmt.Sprintf("Credential %s was made by hand and still works, although Vault has replaced it. If nobody else uses it, delete it: %s", id, access))
	}
	if warning := config.endWarning(now, rotated); warning != "" {
		resp.AddWarning(warning)
	}
}

// endWarning warns of a credential that ends soon, or was created by a rotation just now, if nothing replaces it before; else it returns "".
func (c *configEntry) endWarning(now time.Time, rotated bool) string {
	k := &c.Rotation.Credential
	accessToken, scheduled := !accessTokenEnd(c.Token).IsZero(), c.effectiveSchedule().Automatic()
	verb, end := "ends", rfc3339(k.Expires)
	if now.After(k.Expires) {
		verb = "ended"
	}
	switch {
	case k.Expires.IsZero() || !rotated && !k.Expires.Before(now.Add(expirySoon)):
		return ""
	case accessToken:
		return fmt.Sprintf("token is an access token, which %s at %s and can't be renewed. Write a personal access token instead, or connect with another auth_type.", verb, end)
	case scheduled:
		return ""
	case k.ID == "":
		return fmt.Sprintf("The credential of this config %s at %s, and nothing replaces it before. Write another one to config in time, or have Vault replace it: set rotation_period or rotation_schedule in config.", verb, end)
	default:
		return fmt.Sprintf("The engine's credential %s at %s, and nothing replaces it before; set rotation_period or rotation_schedule in config, or rotate again in time.", verb, end)
	}
}

const rotateRootHelp = `
Creates a new credential for the engine itself, verifies it, saves it, and only then
uses it: a token for auth_type pat, an OAuth secret of its own service principal
for oauth-m2m. The previous one is removed 5 minutes later, if a rotation created it.
One that an operator created is left alone, and the answer says how to delete it.

  vault write -f databricks/config/rotate-root

To have it done automatically:

  vault write databricks/config rotation_period=720h
  vault write databricks/config rotation_period=0 \
      rotation_schedule='0 3 * * SAT' rotation_window=4h
`
