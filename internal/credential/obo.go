// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"vault-plugin-secrets-databricks/internal/client"
)

// OBOToken is the name of the type of personal access tokens on behalf of a service principal.
const OBOToken = "obo_token"

// oboCredential is a personal access token that the engine, as a workspace admin, makes on behalf of a service principal
// (Databricks REST reference, Token management API; AWS and GCP only). Its nonce is in its comment.
type oboCredential struct{ described }

var _ Type = oboCredential{}

var oboTraits = Traits{
	Name:      OBOToken,
	Summary:   "a personal access token on behalf of a service principal",
	Principal: Required, Comment: true, Workspace: true, Static: true,
	answer: tokenAnswer,
}

func (oboCredential) Fits(conn Conn, spec Spec) error {
	if client.IsAzureHost(conn.Host()) {
		return &FieldError{fieldCredentialType, "Azure Databricks makes no tokens on behalf of service principals; use " + insteadOfOBO(spec)}
	}
	return nil
}

// insteadOfOBO lists the types that do for a role of the kind where there are no such tokens.
func insteadOfOBO(spec Spec) string {
	if spec.Stored {
		return OAuthSecret
	}
	return OAuthToken + " or " + OAuthSecret
}

func (oboCredential) Mint(ctx context.Context, conn Conn, r Request) (*Credential, error) {
	created, err := conn.Client().CreateOBOToken(ctx, client.CreateOBOTokenRequest{
		ApplicationID: r.ApplicationID,
		Comment:       r.Mark.Comment(r.Text),
		Lifetime:      r.Lifetime,
		Scopes:        r.Scopes,
	})
	if err != nil {
		return nil, explainOBO(ctx, conn, r, err)
	}
	return mintedToken(created, r.Scopes), nil
}

// Undo always uses AccessAdmin: the token belongs to the service principal, so the engine's own token list does not have it.
func (oboCredential) Undo(ctx context.Context, conn Conn, _ Access, lists Lists, lost Lost) ([]string, error) {
	return undoTokens(ctx, conn, AccessAdmin, lists, lost)
}

func (oboCredential) Revoke(ctx context.Context, conn Conn, _ Access, ref Ref) error {
	return DeleteToken(ctx, conn, AccessAdmin, ref.ID)
}

func (oboCredential) Warnings(known Known, spec Spec) []string {
	return slices.Concat(onlyAdminsWarnings(known, "tokens on behalf of service principals"), principalWarnings(known, spec), scopeWarnings(spec))
}

// explainOBO adds to an error which precondition of an on-behalf-of token is missing, and advice.
func explainOBO(ctx context.Context, conn Conn, r Request, err error) error {
	text := strings.ToLower(err.Error())
	switch {
	case client.IsKind(err, client.QuotaExceeded):
		count := "how many it has could not be counted"
		if tokens, listErr := conn.Client().ListManagedTokens(ctx); listErr == nil {
			tokens = slices.DeleteFunc(tokens, func(t client.TokenInfo) bool { return strconv.FormatInt(t.OwnerID, 10) != r.ServicePrincipalID })
			count = "it has " + countTokens(tokens, r.Mark.MountID)
		}
		return tokenQuota("service principal "+r.ApplicationID, count, r.Stored, err)
	case strings.Contains(text, "not enabled for this workspace"):
		return explain("this workspace makes no tokens on behalf of service principals (Azure never does); use %s: %w", insteadOfOBO(r.Spec), err)
	case strings.Contains(text, "application id of the service principal"):
		return explain("application_id %s is no service principal of this workspace; add it to the workspace, or correct the role: %w", r.ApplicationID, err)
	case client.IsKind(err, client.PermissionDenied):
		return explain("to make a token on behalf of a service principal, the engine's identity must be a workspace admin, and the service principal needs CAN_USE on tokens (Settings, Advanced, Personal access tokens): %w", err)
	default:
		return err
	}
}
