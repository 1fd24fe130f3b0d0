// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	keySecrets = "secrets"
	keyBytes   = "bytes"
	keyPrefix  = "prefix"
	keyPrune   = "prune"
	keyDryRun  = "dry_run"
	keyWritten = "written"
	keyDeleted = "deleted"
	keyKept    = "kept"

	// bulkConcurrency is how many secrets are written at once; the client's rate limit applies as well.
	bulkConcurrency = 16

	// bulkProgress is how often the progress of a push is logged.
	bulkProgress = 5 * time.Second
)

func pathSecretsBulk() *framework.Path {
	return &framework.Path{
		Pattern: "secrets/(?P<" + keyScope + ">[^/]+)/?",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationSuffix: "secrets",
		},
		Fields: map[string]*framework.FieldSchema{
			keyScope: {
				Type:        framework.TypeString,
				Description: "Name of the scope.",
				Required:    true,
			},
			keySecrets: {
				Type:         framework.TypeMap,
				Description:  "Strings to store, by key. 1,000 keys at most.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			keyBytes: {
				Type:         framework.TypeMap,
				Description:  "Bytes to store, in base64, by key. Together with secrets 1,000 keys at most.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			keyPrune: {
				Type:        framework.TypeBool,
				Description: "Delete the keys of the scope that were not sent. They are deleted after the sent ones are stored, except where a full scope needs room first. What this mount itself holds is kept: leased secrets, the copies of leased credentials, and those of static roles.",
			},
			keyDryRun: {
				Type:        framework.TypeBool,
				Description: "Only report what would be written, deleted and kept.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: readOperation((*backend).listSecrets, "List the keys of a scope.", listResponseFields),
			logical.UpdateOperation: writeOperation((*backend).pushSecrets, "Store many secrets at once.",
				[]framework.Response{pushResponse},
				framework.RequestExample{
					Description: "Make the scope equal to what is sent.",
					Data:        map[string]any{keySecrets: map[string]any{"user": "etl", "password": "s3cr3t"}, keyPrune: true},
				}),
		},
		HelpSynopsis:    "List the secrets of a scope, or store many at once.",
		HelpDescription: strings.TrimSpace(bulkHelp),
	}
}

var pushResponse = framework.Response{Description: "The keys that were written, deleted and kept.", Fields: map[string]*framework.FieldSchema{
	keyWritten: {Type: framework.TypeStringSlice, Required: true, Description: "Keys that were stored."},
	keyDeleted: {Type: framework.TypeStringSlice, Required: true, Description: "Keys that were deleted."},
	keyKept:    {Type: framework.TypeStringSlice, Required: true, Description: "Keys that prune did not delete although they were not sent, because this mount holds them, or because a push can't name them."},
}}

// pathSecretsBelow lists what Vault's users take for a folder. Databricks has none: a slash is a character of a key.
func pathSecretsBelow() *framework.Path {
	return &framework.Path{
		Pattern: "secrets/(?P<" + keyScope + ">[^/]+)/(?P<" + keyPrefix + ">.+)/",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationSuffix: "secrets-below",
		},
		Fields: map[string]*framework.FieldSchema{
			keyScope: {
				Type:        framework.TypeString,
				Description: "Name of the scope.",
				Required:    true,
			},
			keyPrefix: {
				Type:        framework.TypeString,
				Description: "What the keys begin with, up to a slash.",
				Required:    true,
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: readOperation((*backend).listSecrets, "List the keys of a scope that begin with a prefix and a slash, without these.", listResponseFields),
		},
		HelpSynopsis:    "List the secrets of a scope whose keys begin alike.",
		HelpDescription: strings.TrimSpace(bulkHelp),
	}
}

// listSecrets lists the keys of a scope or, with a prefix, what follows it and a slash in those that begin so. Both lists are flat: a name in
// them is a key, never a folder.
func (b *backend) listSecrets(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	scope := data.Get(keyScope).(string)
	if err := checkName(keyScope, scope); err != nil {
		return nil, err
	}
	below := ""
	if _, folder := data.Schema[keyPrefix]; folder {
		prefix := data.Get(keyPrefix).(string)
		if err := checkKey(keyPrefix, prefix); err != nil {
			return nil, err
		}
		below = prefix + "/"
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	secrets, err := conn.client.ListSecrets(ctx, scope)
	if client.IsGone(err) {
		return nil, checkSlashes(ctx, conn, scope, below)
	}
	if err != nil {
		return nil, explainSecrets(err, scope, permissionRead)
	}
	names, infos := make([]string, 0, len(secrets)), make(map[string]any, len(secrets))
	for _, secret := range secrets {
		if len(secret.Key) <= len(below) || !strings.EqualFold(secret.Key[:len(below)], below) {
			continue
		}
		name := secret.Key[len(below):]
		names = append(names, name)
		infos[name] = updatedTimes(secret.Updated)
	}
	return logical.ListResponseWithInfo(names, infos), nil
}

// pushSecrets stores what was sent and, with prune, deletes the rest. Stored values can't be compared with those sent, so every
// key is written. If some keys fail, the request fails, and repeating it completes the work.
func (b *backend) pushSecrets(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	p, err := pushOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	dryRun := data.Get(keyDryRun).(bool)
	// In Unity Catalog, one list tells of all keys whether they are to be created or updated.
	if p.prune || dryRun || p.space.isUC() {
		listed, err := p.space.list(ctx, conn)
		if err != nil {
			return nil, err
		}
		p.listed = make(map[string]bool, len(listed))
		for _, secret := range listed {
			p.listed[strings.ToLower(secret.Key)] = true
		}
		if err := b.planPrune(ctx, req.Storage, conn, p, listed); err != nil {
			return nil, err
		}
	}
	keys, surplus := slices.Sorted(maps.Keys(p.puts)), p.surplus
	room := p.space.most() - len(p.done[keyKept])
	if len(keys) > room {
		return nil, badField(keySecrets, "%d keys were sent, and %d more are there that prune keeps; a %s has at most %d: %s",
			len(keys), len(p.done[keyKept]), p.space.kind(), p.space.most(), strings.Join(p.done[keyKept], ", "))
	}
	if dryRun {
		return pushed(keys, surplus, p.done[keyKept]), nil
	}

	remove := func(ctx context.Context, key string) error {
		ref := p.space.ref(key)
		unlock, err := b.lockForWrite(ctx, req.Storage, ref)
		if err != nil {
			return err
		}
		defer unlock()
		// A lease or a delivery may have written it since it was listed.
		held, err := b.holdsSecret(ctx, req.Storage, conn, ref)
		switch {
		case err != nil:
			return err
		case held:
			return errHeld
		}
		if err := ref.remove(ctx, conn, nil); err != nil && !client.IsGone(err) {
			return ref.explain(err, permissionWrite)
		}
		return nil
	}
	// Surplus keys are deleted last, except those that must make room in a scope that would exceed its limit.
	first := min(max(len(keys)+len(surplus)-room, 0), len(surplus))
	p.each(ctx, b, keyDeleted, surplus[:first], remove)
	if p.first == nil {
		p.each(ctx, b, keyWritten, keys, func(ctx context.Context, key string) error {
			known := mayExist
			if p.listed != nil && !p.listed[strings.ToLower(key)] {
				known = wasAbsent
			}
			return b.putUnleased(ctx, req.Storage, conn, p.space.ref(key), p.puts[key], known)
		})
	}
	if p.first == nil {
		p.each(ctx, b, keyDeleted, surplus[first:], remove)
	}
	if n := len(p.done[keyWritten]) + len(p.done[keyDeleted]); n > 0 {
		kind := "secrets-push"
		if p.space.isUC() {
			kind = "uc-secrets-push"
		}
		b.event(kind, req.Path, append(p.space.names(), "written", fmt.Sprint(len(p.done[keyWritten])), "deleted", fmt.Sprint(len(p.done[keyDeleted])))...)
	}
	if p.first != nil {
		return nil, p.failure(len(keys) + len(surplus))
	}
	return pushed(p.done[keyWritten], p.done[keyDeleted], p.done[keyKept]), nil
}

const bulkHelp = `
Stores many secrets in one call, several at a time. With prune=true the scope then
holds exactly what was sent, and what this mount itself keeps there: leased secrets,
and the copies of leased credentials and of static roles. Their leases and roles would
go on as if they were there, so prune spares them and lists them as kept; end the lease
or change the role to remove them. Leases of version 0.1.0 are not known until they are
renewed. A key that a push can't name, for example one that begins with a slash, is kept
as well. dry_run=true only reports what would happen.

Keys may have slashes. A list of the scope has all of them, and one of a prefix has
what follows it: team/db of scope etl is "team/db" in the first list of these, and "db"
in the second.

When some keys fail, the call fails and says which and why; repeating it finishes the
work.

  vault list -detailed databricks/secrets/etl
  vault list databricks/secrets/etl/team
  vault write databricks/secrets/etl - <<< '{"secrets": {"user": "etl", "password": "…"}, "prune": true}'
`
