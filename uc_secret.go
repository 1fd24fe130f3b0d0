// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
)

const (
	keyCatalog  = "catalog"
	keySchema   = "schema"
	keyFullName = "full_name"
	keyOwner    = "owner"
	keyUCSecret = "uc_secret" // in events and the log
)

var ucValues = valueRules{most: client.MaxUCSecretValue, written: "60 KiB", textOnly: true}

// ucRef returns the secret of the names in Unity Catalog. Invalid names are a fieldError.
func ucRef(catalog, schema, name string) (secretRef, error) {
	for _, part := range [][2]string{{keyCatalog, catalog}, {keySchema, schema}, {keyName, name}} {
		if err := checkUCName(part[0], part[1]); err != nil {
			return secretRef{}, err
		}
	}
	return secretRef{UC: catalog + "." + schema + "." + name}, nil
}

// parseUCName returns the secret of a full name that was sent in the field.
func parseUCName(field, fullName string) (secretRef, error) {
	parts := strings.Split(fullName, ".")
	if len(parts) != 3 {
		return secretRef{}, badField(field, "%q is not the full name of a secret in Unity Catalog; send <catalog>.<schema>.<name>", fullName)
	}
	for _, part := range parts {
		if err := checkUCName(field, part); err != nil {
			return secretRef{}, err
		}
	}
	return secretRef{UC: fullName}, nil
}

// ucNames returns the names of the catalog, the schema and the secret, of which none has a period.
func (p secretRef) ucNames() (catalog, schema, name string) {
	catalog, rest, _ := strings.Cut(p.UC, ".")
	schema, name, _ = strings.Cut(rest, ".")
	return catalog, schema, name
}

// nameField returns the field that has the secret's own name in requests about it.
func (p secretRef) nameField() string {
	if p.UC != "" {
		return keyName
	}
	return keyKey
}

// checkUCName refuses what no object of Unity Catalog can be called (Databricks guide "Names").
func checkUCName(field, name string) error {
	if !validUCName(name) {
		return badField(field, "%q is no valid name; use %s", name, ucNameRule)
	}
	return nil
}

func validUCName(name string) bool {
	return name != "" && utf8.ValidString(name) && utf8.RuneCountInString(name) <= client.MaxUCName &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '.' || r == '/' || unicode.IsSpace(r) || unicode.IsControl(r) })
}

const ucNameRule = "1 to 255 characters without periods, slashes, spaces and control characters"

// addUC adds what only secrets in Unity Catalog have, from a request.
func (v *secretValue) addUC(data *framework.FieldData, leased bool) error {
	if raw, sent := data.Raw[keyComment]; sent && raw != nil {
		comment := data.Get(keyComment).(string)
		v.comment = &comment
	}
	raw, sent := data.Raw[keyOwner]
	v.owner = data.Get(keyOwner).(string)
	switch {
	case !sent || raw == nil:
		return nil
	case v.owner == "":
		return badField(keyOwner, "is empty; send the name of a principal, or leave it out")
	case leased:
		return badField(keyOwner, "can't be sent together with %s: only the owner of a secret can delete it, and the engine has to when the lease ends; grant READ SECRET on it instead", keyTTL)
	}
	return nil
}

// putUC stores the value with an update, and creates the secret where there is none, or the other way round where none is known to be. Of
// what is known to be so, that takes one call. It returns what Databricks says of the secret then.
func (v secretValue) putUC(ctx context.Context, conn *connection, ref secretRef, known presence) (stored *client.UCSecret, err error) {
	write := client.UCSecretWrite{Value: v.text, Comment: v.comment, Owner: v.owner}
	creates := known != mayExist
	doubt := false // an earlier call may have stored the value, although its answer was lost and a repetition was refused
	// Somebody else may create or delete it between two calls.
	for range 3 {
		if creates {
			stored, err = conn.client.CreateUCSecret(ctx, ref.UC, write, known == mustBeAbsent)
		} else {
			stored, err = conn.client.UpdateUCSecret(ctx, ref.UC, write)
		}
		if err == nil {
			return stored, nil
		}
		doubt = doubt || !credential.NotApplied(err)
		if known == mustBeAbsent && client.IsTaken(err) {
			return nil, v.explainTaken(ref, err, doubt)
		}
		if creates && !client.IsTaken(err) || !creates && !client.IsGone(err) {
			break
		}
		creates = !creates
	}
	if doubt && v.owner != "" && client.IsKind(err, client.PermissionDenied) {
		return nil, credential.Unclean(fmt.Errorf("the write was refused. An earlier attempt of this write may have stored the value and given %s to %s, who alone may change it now; check its owner: %w", ref, v.owner, err))
	}
	if err = explainUC(err, ref.UC); doubt {
		err = credential.Unclean(err)
	}
	return nil, err
}

// explainTaken explains the error for a secret that exists, although it had to be absent.
func (v secretValue) explainTaken(ref secretRef, err error, doubt bool) error {
	if doubt {
		return fmt.Errorf("%s: secret %s already exists. An earlier attempt of this write may have created it, or somebody else has, so it was not overwritten; check who created it: %w", keyIfAbsent, ref, err)
	}
	return fmt.Errorf("%s: secret %s already exists and was not overwritten; choose another name, or delete it first: %w", keyIfAbsent, ref, err)
}

// lookAtUC is lookAt for a secret in Unity Catalog, and returns its value if that is asked for and the engine's identity may read it.
func lookAtUC(ctx context.Context, conn *connection, ref secretRef, withValue bool) (*seenSecret, error) {
	secret, err := conn.client.GetUCSecret(ctx, ref.UC, withValue)
	if client.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &seenSecret{secret.Updated, secret}, nil
}

// explainUC adds advice to an error of the Unity Catalog Secrets API about a secret or a schema, by its full name. A nil error stays nil.
func explainUC(err error, fullName string) error {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return err
	}
	names := strings.Split(fullName, ".")
	schema := strings.Join(names[:min(len(names), 2)], ".")
	switch {
	case noUCSecrets(remote):
		return fmt.Errorf("this workspace has no secrets in Unity Catalog: they are a preview on some clouds, which an admin may have to turn on, and need a metastore; use secrets/<scope>/<key> where they are missing: %w", err)
	case remote.Kind == client.PermissionDenied && remote.Op == "uc-secrets/create":
		return fmt.Errorf("to create a secret, the engine's identity needs CREATE SECRET and USE SCHEMA on schema %s, and USE CATALOG on its catalog: %w", schema, err)
	case remote.Kind == client.PermissionDenied && remote.Op == "uc-secrets/update":
		return fmt.Errorf("to overwrite %s, the engine's identity needs WRITE SECRET on it, or to own it; only its owner can change its comment and its owner: %w", fullName, err)
	case remote.Kind == client.PermissionDenied && remote.Op == "uc-secrets/delete":
		return fmt.Errorf("to delete %s, the engine's identity has to own it: %w", fullName, err)
	case remote.Kind == client.PermissionDenied:
		return fmt.Errorf("the engine's identity may not read %s: it needs READ SECRET for the value, MANAGE or to own it for the rest, and USE SCHEMA and USE CATALOG: %w", fullName, err)
	case remote.Kind == client.NotFound:
		return fmt.Errorf("there is no schema %s in Unity Catalog, or nothing of that name in it: %w", schema, err)
	case remote.Kind == client.QuotaExceeded:
		return fmt.Errorf("schema %s has as many secrets as a schema can have (%d), or the metastore as many as it can; delete some, or use another: %w", schema, client.MaxUCSecretsPerSchema, err)
	case remote.ErrorCode == "INVALID_PARAMETER_VALUE":
		return fmt.Errorf("check the names, the owner, and that the value has %d bytes (60 KiB) at most: %w", client.MaxUCSecretValue, err)
	default:
		return err
	}
}

// noUCSecrets reports whether a workspace has refused a call because it doesn't have the API.
func noUCSecrets(remote *client.Error) bool {
	switch remote.ErrorCode {
	case "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED", "METASTORE_DOES_NOT_EXIST":
		return true
	default:
		return remote.ErrorCode == "" && remote.Kind == client.Refused && remote.Status == 404
	}
}
