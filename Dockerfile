# Image of one component: --build-arg COMPONENT=isthmus-hub or isthmus-agent.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG COMPONENT VERSION=0.1.0-dev TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
      -ldflags "-s -w -X github.com/isthmus-mesh/isthmus/internal/version.Version=$VERSION" \
      -o /component ./cmd/$COMPONENT

FROM gcr.io/distroless/static:nonroot
COPY --from=build /component /component
USER 65532:65532
ENTRYPOINT ["/component"]
