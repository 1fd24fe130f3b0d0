// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// The operations of the Unity Catalog Secrets API, as errors and counters name them.
const (
	opUCSecretCreate = "uc-secrets/create"
	opUCSecretGet    = "uc-secrets/get"
	opUCSecretList   = "uc-secrets/list"
	opUCSecretUpdate = "uc-secrets/update"
	opUCSecretDelete = "uc-secrets/delete"
)

// Limits of Unity Catalog secrets (Databricks REST reference, Secrets in Unity Catalog).
const (
	// MaxUCSecretValue is how many bytes the value of one may have.
	MaxUCSecretValue = 60 << 10
	// MaxUCSecretsPerSchema is how many a schema may have.
	MaxUCSecretsPerSchema = 1000
	// MaxUCName is how many characters the name of a catalog, a schema or a secret may have.
	MaxUCName = 255
)

const ucSecretsPath = "/api/2.1/unity-catalog/secrets"

// UCSecret is what Databricks says of a secret in Unity Catalog.
type UCSecret struct {
	Name      string
	Owner     string
	Comment   string
	Created   time.Time // UTC; zero where Databricks doesn't say, as Updated
	CreatedBy string    // principal, "" where Databricks doesn't say, as UpdatedBy
	Updated   time.Time
	UpdatedBy string
	Metastore string  // id of the metastore that the secret is in, "" where Databricks doesn't say
	Value     *Secret // only of one that was read with its value; nil where Databricks left it out
}

// UCSecretWrite is what to store in a Unity Catalog secret.
type UCSecretWrite struct {
	Value   Secret
	Comment *string // nil leaves it
	Owner   string  // empty leaves it, and makes the engine's identity the owner of a new secret
}

// ucSecretFields are the members of a secret on the wire.
type ucSecretFields struct {
	Name           string     `json:"name"`
	CatalogName    string     `json:"catalog_name"`
	SchemaName     string     `json:"schema_name"`
	Comment        string     `json:"comment"`
	Owner          string     `json:"owner"`
	EffectiveOwner string     `json:"effective_owner"`
	CreateTime     *time.Time `json:"create_time"`
	CreatedBy      string     `json:"created_by"`
	UpdateTime     *time.Time `json:"update_time"`
	UpdatedBy      string     `json:"updated_by"`
	MetastoreID    string     `json:"metastore_id"`
	EffectiveValue *string    `json:"effective_value"`
}

func (f *ucSecretFields) secret() (*UCSecret, error) {
	if f.Name == "" {
		return nil, errIncomplete
	}
	s := &UCSecret{Name: f.Name, Owner: f.Owner, Comment: f.Comment, CreatedBy: f.CreatedBy, UpdatedBy: f.UpdatedBy, Metastore: f.MetastoreID}
	if s.Owner == "" {
		s.Owner = f.EffectiveOwner
	}
	if f.CreateTime != nil {
		s.Created = f.CreateTime.UTC()
	}
	if f.UpdateTime != nil {
		s.Updated = f.UpdateTime.UTC()
	}
	if f.EffectiveValue != nil {
		value := Secret(*f.EffectiveValue)
		s.Value = &value
	}
	return s, nil
}

// CreateUCSecret makes the secret of the full name, which is the names of the catalog, the schema and the secret with periods between them
// (Databricks REST reference, Secrets in Unity Catalog, create). That it exists is an error for which [IsTaken] is true. once keeps a
// request whose outcome is unknown from being repeated: a repetition would meet what the first one made. So does another owner, who
// could refuse it.
func (c *Client) CreateUCSecret(ctx context.Context, fullName string, write UCSecretWrite, once bool) (*UCSecret, error) {
	ca := call{op: opUCSecretCreate, creates: once || write.Owner != ""}
	return c.writeUCSecret(ctx, ca, http.MethodPost, ucSecretsPath, nil, fullName, write)
}

// UpdateUCSecret stores a value in a secret that exists. That there is none is an error of kind [NotFound]. One that gives the secret to
// another owner isn't repeated when its outcome is unknown: the engine may have lost the right to.
func (c *Client) UpdateUCSecret(ctx context.Context, fullName string, write UCSecretWrite) (*UCSecret, error) {
	mask := "value"
	if write.Comment != nil {
		mask += ",comment"
	}
	if write.Owner != "" {
		mask += ",owner"
	}
	return c.writeUCSecret(ctx, call{op: opUCSecretUpdate, creates: write.Owner != ""}, http.MethodPatch, ucSecretPath(fullName), map[string]any{"update_mask": mask}, fullName, write)
}

func (c *Client) writeUCSecret(ctx context.Context, ca call, method, path string, query map[string]any, fullName string, write UCSecretWrite) (*UCSecret, error) {
	if !utf8.ValidString(write.Value.Reveal()) {
		// In JSON, what is not UTF-8 would arrive as something else.
		return nil, notSent(ca.op, "the text is not valid UTF-8")
	}
	catalog, rest, _ := strings.Cut(fullName, ".")
	schema, name, _ := strings.Cut(rest, ".")
	body := struct {
		Name        string  `json:"name"`
		CatalogName string  `json:"catalog_name"`
		SchemaName  string  `json:"schema_name"`
		Value       string  `json:"value"`
		Comment     *string `json:"comment,omitempty"`
		Owner       string  `json:"owner,omitempty"`
	}{name, catalog, schema, write.Value.Reveal(), write.Comment, write.Owner}
	ca.result, ca.signed, ca.private = true, true, write.Value
	return c.ucSecret(ctx, ca, method, path, query, body)
}

// GetUCSecret returns a secret, and its value if that is asked for and the engine's identity may read it.
func (c *Client) GetUCSecret(ctx context.Context, fullName string, withValue bool) (*UCSecret, error) {
	var query map[string]any
	if withValue {
		query = map[string]any{"include_value": true}
	}
	return c.ucSecret(ctx, call{op: opUCSecretGet, result: true, signed: true}, http.MethodGet, ucSecretPath(fullName), query, nil)
}

func (c *Client) ucSecret(ctx context.Context, ca call, method, path string, query map[string]any, body any) (secret *UCSecret, err error) {
	_, err = c.do(ctx, ca, func(ctx context.Context) error {
		var answer ucSecretFields
		if err := c.sendUC(ctx, method, path, query, body, &answer); err != nil {
			return err
		}
		var err error
		secret, err = answer.secret()
		return err
	})
	if err != nil {
		return nil, err
	}
	return secret, nil
}

// ListUCSecrets returns the secrets of a schema that the engine's identity may see, without their values. They come in pages, each of them a
// call of its own.
func (c *Client) ListUCSecrets(ctx context.Context, catalog, schema string) ([]UCSecret, error) {
	ctx, cancel := context.WithTimeout(ctx, CallBudget)
	defer cancel()
	secrets := []UCSecret{}
	query := map[string]any{"catalog_name": catalog, "schema_name": schema}
	for range maxPages {
		page, next, err := c.ucSecretsPage(ctx, query)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, page...)
		if next == "" {
			return secrets, nil
		}
		query["page_token"] = next
	}
	return nil, endless(opUCSecretList)
}

// CheckUCSchema fails unless the schema exists and the engine's identity may list its secrets. It asks for one of them, in one call. That there
// is none is an error of kind [NotFound].
func (c *Client) CheckUCSchema(ctx context.Context, catalog, schema string) error {
	_, _, err := c.ucSecretsPage(ctx, map[string]any{"catalog_name": catalog, "schema_name": schema, "page_size": 1})
	return err
}

// ucSecretsPage returns a page of a list, and the token of the next one, "" for none.
func (c *Client) ucSecretsPage(ctx context.Context, query map[string]any) (secrets []UCSecret, next string, err error) {
	var page struct {
		Secrets       []ucSecretFields `json:"secrets"`
		NextPageToken string           `json:"next_page_token"`
	}
	_, err = c.do(ctx, call{op: opUCSecretList, result: true, signed: true}, func(ctx context.Context) error {
		if err := c.sendUC(ctx, http.MethodGet, ucSecretsPath, query, nil, &page); err != nil {
			return err
		}
		for n := range page.Secrets {
			secret, err := page.Secrets[n].secret()
			if err != nil {
				return err
			}
			secrets = append(secrets, *secret)
		}
		return nil
	})
	return secrets, page.NextPageToken, err
}

// DeleteUCSecret removes a secret. One that does not exist, or whose schema or catalog doesn't, is an error of kind [NotFound]. still is as that of
// [Client.DeleteSecret].
func (c *Client) DeleteUCSecret(ctx context.Context, fullName string, still Recheck) error {
	_, err := c.do(ctx, call{op: opUCSecretDelete, deletes: true, signed: true, recheck: still}, func(ctx context.Context) error {
		return c.sendUC(ctx, http.MethodDelete, ucSecretPath(fullName), nil, nil, nil)
	})
	return err
}

// ucSecretPath escapes the name, which the SDK's own methods don't.
func ucSecretPath(fullName string) string { return ucSecretsPath + "/" + url.PathEscape(fullName) }

// sendUC is [Client.send] for the methods of this API, which has a query beside a body.
func (c *Client) sendUC(ctx context.Context, method, path string, query map[string]any, body, result any) error {
	headers := map[string]string{"Accept": "application/json"}
	if body != nil {
		headers["Content-Type"] = "application/json"
	}
	if c.sdk.Config.WorkspaceID != "" {
		headers["X-Databricks-Workspace-Id"] = c.sdk.Config.WorkspaceID
	}
	if method == http.MethodGet && query != nil {
		return c.sdk.Do(ctx, method, path, headers, nil, query, result)
	}
	return c.sdk.Do(ctx, method, path, headers, query, body, result)
}

// ucAbsent are the codes by which Unity Catalog says what is missing. Without its schema or its catalog, a secret is gone, too. That a workspace
// has no metastore says nothing of the kind.
var ucAbsent = []string{"SECRET_DOES_NOT_EXIST", "SCHEMA_DOES_NOT_EXIST", "CATALOG_DOES_NOT_EXIST"}

// IsTaken reports whether err says that what was to be created exists.
func IsTaken(err error) bool {
	var remote *Error
	return errors.As(err, &remote) && strings.HasSuffix(remote.ErrorCode, "ALREADY_EXISTS")
}
