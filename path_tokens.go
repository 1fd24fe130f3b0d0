// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
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
)

var allField = &framework.FieldSchema{
	Type:        framework.TypeBool,
	Description: "The tokens of all users of the workspace, not only of the engine's identity. Needs a workspace admin.",
	Query:       true,
}

func (b *backend) pathTokens() []*framework.Path {
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
					Callback: b.listTokens,
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
				logical.ReadOperation:   readOperation(b.readToken, "Read what is known of a token. Its value is never shown again.", tokenResponseFields),
				logical.DeleteOperation: b.deleteOperation(b.deleteToken, "Delete a token at Databricks at once, whatever its lease says.", keyAll),
			},
			HelpSynopsis:    "A token that exists at Databricks.",
			HelpDescription: strings.TrimSpace(tokensHelp),
		},
	}
}

var tokenResponseFields = map[string]*framework.FieldSchema{
	keyTokenID:      {Type: framework.TypeString, Required: true, Description: "Id of the token."},
	keyComment:      {Type: framework.TypeString, Required: true, Description: "Its comment."},
	keyCreationTime: {Type: framework.TypeString, Required: true, Description: "When it was created, RFC 3339."},
	keyExpiryTime:   {Type: framework.TypeString, Required: true, Description: "When it expires, RFC 3339; empty for never."},
	keyScopes:       {Type: framework.TypeStringSlice, Required: true, Description: "Its API scopes."},
	keyOurs:         {Type: framework.TypeBool, Required: true, Description: "Whether this mount created it, according to the mark in its comment."},

	keyOwnerID:           {Type: framework.TypeInt64, Description: "Id of the user or service principal that it acts for. With all=true."},
	keyCreatedByUsername: {Type: framework.TypeString, Description: "Who created it. With all=true."},
	keyLastUsedDay:       {Type: framework.TypeString, Description: "The day it was last used, RFC 3339; empty for never. With all=true."},
}

func (b *backend) tokenInfo(token *client.TokenInfo, all bool) map[string]any {
	info := credential.TokenData(token)
	m, ok := marker.Parse(token.Comment)
	info[keyOurs] = ok && m.MountID == b.mountID
	if all {
		info[keyOwnerID] = token.OwnerID
		info[keyCreatedByUsername] = token.CreatedByUsername
		info[keyLastUsedDay] = rfc3339(token.LastUsedDay)
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

func (b *backend) readToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	id := data.Get(keyTokenID).(string)
	if data.Get(keyAll).(bool) {
		token, err := conn.client.GetManagedToken(ctx, id)
		if client.IsGone(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return &logical.Response{Data: b.tokenInfo(token, true)}, nil
	}
	// The Token API can't get a single token.
	tokens, err := conn.client.ListTokens(ctx)
	if err != nil {
		return nil, err
	}
	for i := range tokens {
		if tokens[i].TokenID == id {
			return &logical.Response{Data: b.tokenInfo(&tokens[i], false)}, nil
		}
	}
	return nil, nil
}

// deleteToken deletes a token, unless the config or a static role uses it. If it has a lease, revoking that still succeeds.
func (b *backend) deleteToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	access := credential.AccessOwn
	if data.Get(keyAll).(bool) {
		access = credential.AccessAdmin
	}
	id := data.Get(keyTokenID).(string)
	if err := checkNotInUse(ctx, req.Storage, id); err != nil {
		return nil, err
	}
	if err := credential.DeleteToken(ctx, conn, access, id); err != nil {
		return nil, err
	}
	if slices.Contains(conn.config.Rotation.OperatorCreated, id) {
		err := b.changeRotation(ctx, req.Storage, func(c *configEntry) {
			c.Rotation.OperatorCreated = slices.DeleteFunc(c.Rotation.OperatorCreated, func(left string) bool { return left == id })
		})
		if err != nil {
			b.Logger().Warn("the config still names a token that was deleted", "error", err)
		}
	}
	b.event(ctx, "token-delete", req.Path, "token_id", id)
	return &logical.Response{}, nil
}

// checkNotInUse returns a fieldError if the config or a static role uses the token.
func checkNotInUse(ctx context.Context, s logical.Storage, id string) error {
	config, err := readConfig(ctx, s)
	if err != nil {
		return err
	}
	if config != nil && config.Token != "" && credential.TokenID(config.Token) == id {
		return badField(keyTokenID, "%s is the token that the engine itself connects with; replace it by config/rotate-root, or write another one to config", id)
	}
	if config != nil && config.Rotation.Credential.ID == id {
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
		if e != nil && e.State.Current.ID == id {
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

With all=true they apply to the tokens of all users of the workspace, which needs a
workspace admin.

A delete takes effect at Databricks at once. The lease of such a token, if it has
one, can still be revoked: that the token is gone is not an error.
`
