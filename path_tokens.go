// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/marker"
)

const (
	keyOurs              = "issued_by_this_mount"
	keyAll               = "all"
	keyOwnerID           = "owner_id"
	keyCreatedByUsername = "created_by_username"
	keyLastUsedDay       = "last_used_day"
	keyLastUsedTime      = "last_used_time"
)

var allField = &framework.FieldSchema{
	Type:        framework.TypeBool,
	Description: "The tokens of all users of the workspace, not only of the engine's identity. Needs a workspace admin. vault list takes no parameters; use vault read databricks/tokens list=true all=true. A single token is looked for among those of all users in any case, where the engine's identity may do so.",
	Query:       true,
}

func pathTokens() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "tokens/?",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "tokens",
			},
			Fields: map[string]*framework.FieldSchema{keyAll: allField},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback: on((*backend).listTokens),
					Summary:  "List the live personal access tokens of the engine's identity.",
					Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
						"keys":     {Type: framework.TypeStringSlice, Description: "Ids of the tokens."},
						"key_info": {Type: framework.TypeMap, Description: "Details of each, by id."},
					}}}},
				},
			},
			HelpSynopsis:    "List the tokens that exist at Databricks.",
			HelpDescription: strings.TrimSpace(tokensHelp),
		},
		{
			Pattern: "tokens/(?P<" + keyTokenID + ">[^/]+)",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "token",
			},
			Fields: map[string]*framework.FieldSchema{
				keyTokenID: {
					Type:        framework.TypeString,
					Description: "Id of the token, as listed.",
					Required:    true,
				},
				keyAll: allField,
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   readOperation((*backend).readToken, "Read what is known of a token. Its value is never shown again.", tokenResponseFields),
				logical.DeleteOperation: deleteOperation((*backend).deleteToken, "Delete a token at Databricks at once, whatever its lease says.", keyAll),
			},
			HelpSynopsis:    "A token that exists at Databricks.",
			HelpDescription: strings.TrimSpace(tokensHelp),
		},
	}
}

var tokenResponseFields = map[string]*framework.FieldSchema{
	keyTokenID:      {Type: framework.TypeString, Required: true, Description: "Id of the token."},
	keyComment:      {Type: framework.TypeString, Required: true, Description: "Its comment."},
	keyCreationTime: {Type: framework.TypeString, Required: true, Description: "When it was created, RFC 3339; null where Databricks does not tell."},
	keyExpiryTime:   {Type: framework.TypeString, Required: true, Description: "When it expires, RFC 3339; null for never."},
	keyScopes:       {Type: framework.TypeStringSlice, Required: true, Description: "Its API scopes."},
	keyOurs:         {Type: framework.TypeBool, Required: true, Description: "Whether this mount created it, according to the mark in its comment."},

	keyOwnerID:           {Type: framework.TypeInt64, Description: "Id of the user or service principal that it acts for. With all=true, and of a token that isn't the engine's own."},
	keyCreatedByUsername: {Type: framework.TypeString, Description: "Who created it. Where owner_id is."},
	keyLastUsedDay:       {Type: framework.TypeString, Description: "The day it was last used, RFC 3339; null for never. Where owner_id is."},
	keyLastUsedTime:      {Type: framework.TypeString, Description: "The same as last_used_day."},
}

func (b *backend) tokenInfo(token *client.TokenInfo, all bool) map[string]any {
	info := credential.TokenData(token)
	info[keyCreationTime], info[keyExpiryTime] = timeOrNull(token.CreationTime), timeOrNull(token.ExpiryTime)
	m, ok := marker.Parse(token.Comment)
	info[keyOurs] = ok && m.MountID == b.mountID
	if all {
		info[keyOwnerID] = token.OwnerID
		info[keyCreatedByUsername] = token.CreatedByUsername
		info[keyLastUsedDay] = timeOrNull(token.LastUsedDay)
		info[keyLastUsedTime] = timeOrNull(token.LastUsedDay)
	}
	return info
}

func (b *backend) listTokens(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	all := data.Get(keyAll).(bool)
	list := conn.client.ListTokens
	if all {
		list = conn.client.ListManagedTokens
	}
	tokens, err := list(ctx)
	if err != nil {
		return nil, err
	}
	ids, infos := make([]string, 0, len(tokens)), make(map[string]any, len(tokens))
	for i := range tokens {
		info := b.tokenInfo(&tokens[i], all)
		delete(info, keyTokenID)
		ids = append(ids, tokens[i].TokenID)
		infos[tokens[i].TokenID] = info
	}
	return logical.ListResponseWithInfo(ids, infos), nil
}

// tokenIDOf returns the id in a request. An invalid one is a fieldError.
func tokenIDOf(data *framework.FieldData) (string, error) {
	id := data.Get(keyTokenID).(string)
	if !client.IsTokenID(id) {
		return "", badField(keyTokenID, "%q can't be one; it has letters, digits, dashes and underscores, 128 at most, as tokens/ lists them", id)
	}
	return id, nil
}

func (b *backend) readToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := tokenIDOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	token, managed, err := findToken(ctx, conn, id, data.Get(keyAll).(bool))
	if err != nil || token == nil {
		return nil, err
	}
	return &logical.Response{Data: b.tokenInfo(token, managed)}, nil
}

// deleteToken deletes a token, unless the config or a static role uses it. If it has a lease, revoking that still succeeds.
func (b *backend) deleteToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := tokenIDOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := checkNotInUse(ctx, req.Storage, id); err != nil {
		return nil, err
	}
	replaced := slices.Contains(conn.config.Rotation.OperatorCreated, id)
	if replaced && conn.config.AuthType != client.AuthPAT {
		return nil, badField(keyTokenID, "%s is an OAuth secret of the engine's service principal, and no token; a read of config says how to delete it", id)
	}
	removed, err := removeToken(ctx, conn, id, data.Get(keyAll).(bool), replaced)
	if err != nil {
		return nil, err
	}
	if replaced {
		err := b.changeRotation(ctx, req.Storage, func(c *configEntry) {
			c.Rotation.OperatorCreated = slices.DeleteFunc(c.Rotation.OperatorCreated, func(left string) bool { return left == id })
		})
		if err != nil {
			b.Logger().Warn("the config still names a token that was deleted", "error", err)
		}
	}
	b.event("token-delete", req.Path, "token_id", id)
	resp := &logical.Response{}
	if !removed {
		resp.AddWarning(fmt.Sprintf("Nobody at %s has a token with the id %s. If there should have been one, check the id.", conn.config.Host, id))
	}
	return resp, nil
}

// checkNotInUse returns a fieldError if the config or a static role uses the token. Ids are compared without case, since Databricks might
// as well.
func checkNotInUse(ctx context.Context, s logical.Storage, id string) error {
	config, err := readConfig(ctx, s)
	if err != nil {
		return err
	}
	if config != nil && config.Token != "" && strings.EqualFold(credential.TokenID(config.Token), id) {
		return badField(keyTokenID, "%s is the token that the engine itself connects with; replace it by config/rotate-root, or write another one to config", id)
	}
	if config != nil && strings.EqualFold(config.Rotation.Credential.ID, id) {
		return badField(keyTokenID, "%s is the token that the engine itself connects with; replace it by config/rotate-root", id)
	}
	names, err := s.List(ctx, staticStoragePrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		e, err := decodeStatic(ctx, s, staticStoragePrefix+name)
		if err != nil && !isUnreadable(err) {
			return err
		}
		if e != nil && strings.EqualFold(e.State.Current.ID, id) {
			return badField(keyTokenID, "%s is the current token of static role %q; replace it by rotate-role/%s, or delete the role", id, name, name)
		}
	}
	return nil
}

const tokensHelp = `
Shows the live personal access tokens of the engine's own identity as Databricks
lists them, including those that Vault did not create; issued_by_this_mount tells
which it did.

  vault list -detailed databricks/tokens
  vault read databricks/tokens/5684c955…
  vault delete databricks/tokens/5684c955…

With all=true the list has the tokens of all users of the workspace, which needs a
workspace admin. vault list takes no parameters, so ask for that list by a read:

  vault read -format=json databricks/tokens list=true all=true

A single token is looked for among those of all users in any case, if the engine's
identity is a workspace admin. The id of a token is the SHA-256 of its text:

  printf %s "$TOKEN" | sha256sum

A delete takes effect at Databricks at once, and never succeeds while the token may
live: if the engine's identity does not have it, and is no admin who could look for
it, the answer is a 404 that says what to do. If certainly nobody has it, the delete
succeeds with a warning.

The lease of such a token, if it has one, can still be revoked: that the token is
gone is not an error. Tokens that the config or a static role uses are not deleted.
`
